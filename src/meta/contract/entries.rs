//! Entries of a catalogue.

use futures_util::future::join_all;

use super::*;
use crate::model::entry::{Edit, EntryFilter, Facts, ListEdit, MapEdit, NodeId, Span};

impl Case {
    fn new_entry(&self, facts: Facts) -> NewEntry {
        let file = FileId(random_uuid());
        let declaration = Some(Declaration::default());
        let session = Session { file, registers: true, declaration, ..self.draft() };
        NewEntry {
            tenant: tenant(),
            file,
            node: None,
            facts,
            expires: Some(session.expires),
            session: Some(session),
            overwrite: None,
            now: self.now,
        }
    }

    async fn entry(&self, facts: Facts) -> (Entry, Session) {
        let new = self.new_entry(facts);
        let session = new.session.clone().unwrap();
        match self.store.make_entry(new).await.unwrap() {
            EntryMade::Done(entry) => (*entry, session),
            other => panic!("not made: {other:?}"),
        }
    }

    async fn found(&self, filter: EntryFilter) -> Vec<i64> {
        let stretch = Stretch { after: 0, part: None, limit: 1_000 };
        let found = self.store.find_entries(&tenant(), filter.clone(), stretch).await.unwrap();
        let count = self.store.count_entries(&tenant(), filter).await.unwrap();
        assert_eq!(u64::try_from(found.len()).unwrap(), count.min(1_000));
        found.into_iter().map(|entry| entry.number).collect()
    }

    async fn there(&self, which: EntryRef) -> Option<Entry> {
        self.store.entries(&tenant(), vec![which]).await.unwrap().remove(0)
    }
}

fn named(name: &str, external_id: Option<&str>) -> Facts {
    Facts { name: name.into(), external_id: external_id.map(Into::into), ..Facts::default() }
}

fn deletion(case: &Case, entries: Vec<EntryRef>) -> DeleteEntries {
    DeleteEntries {
        tenant: tenant(),
        entries,
        ignore_unknown: false,
        as_nodes: false,
        now: case.now,
        keep_replaced: ZERO,
    }
}

async fn an_entry_has_its_content_with_the_commit_and_moves_on_with_the_next(case: Case) {
    let (entry, session) = case.entry(named("a", Some("x"))).await;
    let number = EntryRef::Number(entry.number);
    assert_eq!(case.there(number.clone()).await, Some(entry.clone()));
    assert_eq!(case.store.file_record(&tenant(), entry.file).await.unwrap(), None);
    let first = case.version(&session, 1);
    assert!(matches!(case.store.commit(first.clone()).await.unwrap(), Committed::New(_)));
    let with = case.there(number.clone()).await.unwrap();
    assert_eq!((with.uploaded, with.changed), (Some(case.now), case.now));
    let file = case.store.file_record(&tenant(), entry.file).await.unwrap().unwrap();
    assert_eq!((file.version, file.name.as_str()), (first.version, "a"));
    assert!(file.registered.is_some());
    assert_eq!(case.found(EntryFilter { uploaded: Some(true), ..EntryFilter::default() }).await, [entry.number]);
    assert!(case.found(EntryFilter { uploaded: Some(false), ..EntryFilter::default() }).await.is_empty());
    // The session may bring it again, and another one as well: the last to commit wins, the bytes before it go.
    let again = case.version(&session, 2);
    assert!(matches!(case.store.commit(again).await.unwrap(), Committed::New(_)));
    let other = Session { registers: true, declaration: Some(Declaration::default()), ..case.draft() };
    let opened = case.store.open_for_entry(EntryRef::External("x".into()), other.clone()).await.unwrap();
    assert!(matches!(opened, Some(EntryMade::Done(found)) if found.number == entry.number));
    let last = case.version(&other, 3);
    assert!(matches!(case.store.commit(last.clone()).await.unwrap(), Committed::New(_)));
    let file = case.store.file_record(&tenant(), entry.file).await.unwrap().unwrap();
    assert_eq!(file.version, last.version);
    assert_eq!(case.store.due_tombstones(case.now, 10).await.unwrap().len(), 2);
    let nobody = case.store.open_for_entry(EntryRef::External("y".into()), case.draft()).await.unwrap();
    assert_eq!(nobody, None);
    case.sound().await;
}

async fn an_external_id_is_taken_once_and_can_be_overwritten(case: Case) {
    let (entry, session) = case.entry(named("a", Some("x"))).await;
    let new = case.new_entry(named("b", Some("x")));
    assert_eq!(case.store.make_entry(new.clone()).await.unwrap(), EntryMade::Taken);
    assert_eq!(case.store.session(&tenant(), new.session.as_ref().unwrap().id).await.unwrap(), None, "nothing is open");
    let edit = FactsEdit { name: Some("b".into()), source: Edit::To("s".into()), ..FactsEdit::default() };
    let over = NewEntry { overwrite: Some(edit), ..new };
    let EntryMade::Done(found) = case.store.make_entry(over.clone()).await.unwrap() else { panic!("overwritten") };
    assert_eq!((found.number, found.file, found.facts.name.as_str()), (entry.number, entry.file, "b"));
    let opened = case.store.session(&tenant(), over.session.unwrap().id).await.unwrap().unwrap();
    assert_eq!(opened.file, entry.file);
    assert!(matches!(case.store.commit(case.version(&session, 1)).await.unwrap(), Committed::New(_)));
    let (again, _) = case.entry(named("a", None)).await;
    assert!(again.number > entry.number);
    case.sound().await;
}

async fn changes_and_deletions_are_of_all_or_of_none(case: Case) {
    let (one, session) = case.entry(named("a", Some("x"))).await;
    let (two, _) = case.entry(named("b", Some("y"))).await;
    let source = |text: &str| FactsEdit { source: Edit::To(text.into()), ..FactsEdit::default() };
    let (number, nobody) = (EntryRef::Number(one.number), EntryRef::External("z".into()));
    let own = tenant();
    let change = |changes| case.store.change_entries(&own, changes, case.later(1));
    let both = vec![(number.clone(), source("s")), (nobody.clone(), source("s"))];
    assert_eq!(change(both).await.unwrap(), EntriesChanged::Missing(vec![1]));
    let long = vec![(number.clone(), source("s")), (EntryRef::External("y".into()), source(&"s".repeat(129)))];
    assert!(matches!(change(long).await.unwrap(), EntriesChanged::Wrong(1, _)));
    let id = |id: &str| FactsEdit { external_id: Edit::To(id.into()), ..FactsEdit::default() };
    assert_eq!(change(vec![(number.clone(), id("y"))]).await.unwrap(), EntriesChanged::Taken(vec!["y".into()]));
    assert_eq!(case.there(number.clone()).await, Some(one.clone()));
    let exchange = vec![(number.clone(), id("y")), (EntryRef::Number(two.number), id("x"))];
    assert!(matches!(change(exchange).await.unwrap(), EntriesChanged::Done(_)));
    assert_eq!(case.there(EntryRef::External("y".into())).await.unwrap().number, one.number);
    // Named in two ways, an entry is changed by both.
    let twice = vec![
        (number.clone(), source("s")),
        (
            EntryRef::External("y".into()),
            FactsEdit {
                metadata: MapEdit::Change { add: [("k".to_owned(), "v".to_owned())].into(), remove: Vec::new() },
                labels: ListEdit::To(vec!["l".into()]),
                ..FactsEdit::default()
            },
        ),
    ];
    assert!(matches!(change(twice).await.unwrap(), EntriesChanged::Done(_)));
    let changed = case.there(number.clone()).await.unwrap();
    assert_eq!(
        (changed.facts.source.as_deref(), changed.facts.labels.len(), changed.changed),
        (Some("s"), 1, case.later(1))
    );
    assert!(matches!(case.store.commit(case.version(&session, 1)).await.unwrap(), Committed::New(_)));
    let delete = |refs| case.store.delete_entries(deletion(&case, refs));
    assert_eq!(delete(vec![number.clone(), nobody]).await.unwrap(), EntriesDeleted::Missing(vec![1]));
    assert!(matches!(delete(vec![number.clone()]).await.unwrap(), EntriesDeleted::Done(_)));
    assert_eq!(case.there(number.clone()).await, None);
    assert_eq!(case.store.file_record(&tenant(), one.file).await.unwrap(), None);
    assert_eq!(
        case.store.commit(case.version(&session, 2)).await.unwrap(),
        Committed::Closed,
        "it is not brought back"
    );
    assert_eq!(case.found(EntryFilter::default()).await, [two.number]);
    let (again, _) = case.entry(named("a", Some("y"))).await;
    assert!(again.number > two.number, "a number is never used again");
    assert_eq!(case.store.entries(&"other".into(), vec![EntryRef::Number(again.number)]).await.unwrap(), [None]);
    case.sound().await;
}

async fn an_entry_waits_for_its_content_as_long_as_an_upload_of_it_lives(case: Case) {
    let (gone, session) = case.entry(named("a", Some("x"))).await;
    let (full, upload) = case.entry(named("b", None)).await;
    assert!(matches!(case.store.commit(case.version(&upload, 1)).await.unwrap(), Committed::New(_)));
    let (waits, _) = case.entry(named("c", Some("z"))).await;
    let later = Session {
        expires: case.later(7_200),
        registers: true,
        declaration: Some(Declaration::default()),
        ..case.draft()
    };
    assert!(case.store.open_for_entry(EntryRef::External("z".into()), later).await.unwrap().is_some());
    let node = NewEntry {
        node: Some(NodeId { space: "s".into(), id: "n".into() }),
        session: None,
        expires: None,
        ..case.new_entry(named("n", None))
    };
    assert!(matches!(case.store.make_entry(node.clone()).await.unwrap(), EntryMade::Done(_)));
    assert_eq!(case.store.make_entry(node).await.unwrap(), EntryMade::Taken);
    assert_eq!(case.store.expire_files(case.later(3_599), 10).await.unwrap().files, 0);
    assert_eq!(case.store.expire_files(case.later(3_600), 10).await.unwrap().files, 1);
    assert_eq!(case.there(EntryRef::Number(gone.number)).await, None);
    assert_eq!(case.store.commit(case.version(&session, 1)).await.unwrap(), Committed::Closed);
    assert_eq!(case.store.expire_files(case.later(7_200), 10).await.unwrap().files, 1);
    assert_eq!(case.there(EntryRef::Number(waits.number)).await, None);
    assert_eq!(case.found(EntryFilter::default()).await.len(), 2, "content stays, and so do nodes");
    assert!(case.there(EntryRef::Number(full.number)).await.is_some());
    let as_node = DeleteEntries { as_nodes: true, ..deletion(&case, vec![EntryRef::Number(full.number)]) };
    assert_eq!(case.store.delete_entries(as_node).await.unwrap(), EntriesDeleted::OfNodes(vec![0]));
    case.sound().await;
}

async fn many_entries_are_found_by_every_way_to_them(case: Case) {
    const MANY: i64 = 21_000;
    let made = (0..MANY).map(|n| {
        let facts = Facts {
            name: format!("Name {n}"),
            external_id: Some(format!("e{n:05}")),
            source: Some(if n % 2 == 0 { "even" } else { "odd" }.into()),
            labels: vec![format!("l{}", n % 7)],
            assets: vec![n % 3, 100 + n % 1000],
            source_created: Some(Timestamp(n)),
            ..Facts::default()
        };
        let entry = NewEntry { session: None, ..case.new_entry(facts) };
        let store = &case.store;
        async move {
            match store.make_entry(entry).await.unwrap() {
                EntryMade::Done(entry) => (n, entry.number),
                other => panic!("not made: {other:?}"),
            }
        }
    });
    let numbers: std::collections::BTreeMap<i64, i64> = join_all(made).await.into_iter().collect();
    let span = |min, max| Some(Span { min: Some(min), max: Some(max) });
    let all = EntryFilter::default;
    type Holds = fn(i64) -> bool;
    let cases: [(EntryFilter, Holds); 8] = [
        // One term; a span that few fulfil; one that nearly all do; a prefix of each kind; lists.
        (EntryFilter { source: Some("odd".into()), ..all() }, |n| n % 2 == 1),
        (EntryFilter { source_created: span(5, 900), ..all() }, |n| (5..=900).contains(&n)),
        (EntryFilter { source_created: span(100, MANY), ..all() }, |n| n >= 100),
        (EntryFilter { external_prefix: Some("e".into()), ..all() }, |_| true),
        (EntryFilter { external_prefix: Some("e000".into()), source: Some("even".into()), ..all() }, |n| {
            n < 100 && n % 2 == 0
        }),
        (EntryFilter { assets: Some(vec![0, 1, 777]), ..all() }, |n| n % 3 < 2 || n % 1000 == 677),
        (EntryFilter { labels_any: Some(vec!["l1".into(), "l2".into()]), assets: Some(vec![105]), ..all() }, |n| {
            [1, 2].contains(&(n % 7)) && n % 1000 == 5
        }),
        (
            EntryFilter {
                labels_all: vec!["l3".into()],
                source_created: span(0, 20_500),
                external_prefix: Some("e".into()),
                ..all()
            },
            |n| n % 7 == 3 && n <= 20_500,
        ),
    ];
    for (filter, holds) in cases {
        let mut expected: Vec<i64> = numbers.iter().filter(|(n, _)| holds(**n)).map(|(_, number)| *number).collect();
        expected.sort_unstable();
        let mut found = Vec::new();
        loop {
            let after = found.last().copied().unwrap_or(0);
            let stretch = Stretch { after, part: None, limit: 5_000 };
            let page = case.store.find_entries(&tenant(), filter.clone(), stretch).await.unwrap();
            if page.is_empty() {
                break;
            }
            found.extend(page.into_iter().map(|entry| entry.number));
        }
        assert_eq!(found, expected, "{filter:?}");
        let count = case.store.count_entries(&tenant(), filter).await.unwrap();
        assert_eq!(count, u64::try_from(expected.len()).unwrap());
    }
    let mut parts = Vec::new();
    for part in 0..4 {
        let stretch = Stretch { after: 0, part: Some((part, 4)), limit: 10_000 };
        parts.extend(case.store.find_entries(&tenant(), all(), stretch).await.unwrap().into_iter().map(|e| e.number));
    }
    parts.sort_unstable();
    assert_eq!(
        parts,
        numbers.values().copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    );
    let found = case.store.search_entries(&tenant(), "NAME 2099", all(), 5).await.unwrap();
    assert_eq!(found[0].facts.name, "Name 2099");
    assert_eq!(found.len(), 5);
}

async fn nodes_are_put_all_or_none(case: Case) {
    let node = |id: &str, name: &str| NodeEntry {
        node: NodeId { space: "s".into(), id: id.into() },
        file: FileId(random_uuid()),
        facts: named(name, None),
        edit: FactsEdit { by_node: true, name: Some(name.into()), ..FactsEdit::default() },
    };
    let put = async |nodes| case.store.put_nodes(&tenant(), nodes, case.now).await.unwrap();
    let EntriesChanged::Done(first) = put(vec![node("a", "one"), node("b", "two")]).await else { panic!("not put") };
    assert_eq!(first.iter().map(|entry| entry.facts.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    // The last of them can't be so: the first is not changed, and the second not made.
    let refused = put(vec![node("a", "three"), node("c", "four"), node("b", "")]).await;
    assert!(matches!(refused, EntriesChanged::Wrong(2, _)), "{refused:?}");
    let which = |id: &str| EntryRef::Node(NodeId { space: "s".into(), id: id.into() });
    assert_eq!(case.there(which("a")).await.as_ref(), first.first());
    assert_eq!(case.there(which("c")).await, None);
    // Named twice, new and there, each is one entry, as the last of them says.
    let twice = vec![node("a", "five"), node("d", "six"), node("a", "seven"), node("d", "eight")];
    let EntriesChanged::Done(twice) = put(twice).await else { panic!("not put") };
    let names: Vec<_> = twice.iter().map(|entry| (entry.number, entry.facts.name.as_str())).collect();
    let (a, d) = (first[0].number, case.there(which("d")).await.unwrap().number);
    assert_eq!(names, [(a, "seven"), (d, "eight"), (a, "seven"), (d, "eight")]);
    assert_eq!(case.found(EntryFilter { name: Some("eight".into()), ..EntryFilter::default() }).await, [d]);
    assert!(case.found(EntryFilter { name: Some("six".into()), ..EntryFilter::default() }).await.is_empty());
    case.sound().await;
}

on_every_store! {
    many_entries_are_found_by_every_way_to_them;
    an_entry_has_its_content_with_the_commit_and_moves_on_with_the_next;
    an_external_id_is_taken_once_and_can_be_overwritten;
    changes_and_deletions_are_of_all_or_of_none;
    an_entry_waits_for_its_content_as_long_as_an_upload_of_it_lives;
    nodes_are_put_all_or_none;
}

//! Changes of pushes, however many of them are applied at once.

use super::*;

/// Numbers that follow from a seed.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % most
    }

    pub(super) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

const IDS: [&str; 7] = ["x://a", "x://a/1", "x://a/2", "x://b", "x://ü\u{10fffe}\"\\", "x://nul\0", "x://nul\0/1"];

impl Case {
    async fn in_source(&mut self, id: String) {
        let new = NewSource {
            tenant: tenant(),
            id: id.as_str().into(),
            name: id,
            stream_enabled: true,
            properties: Map::new(),
            now: self.now,
        };
        self.source = self.store.create_source(new).await.unwrap().unwrap();
    }

    /// Any change, and the versions that it makes an item hold.
    async fn change(&self, numbers: &mut Numbers, versions: &mut Vec<(FileId, VersionId)>) -> Change {
        let document_id = numbers.of(&IDS).to_owned();
        let kind = numbers.below(8);
        if kind < 2 {
            return Change::Delete { document_id, children: kind == 1 };
        }
        let value = json!([numbers.below(3)]);
        if kind == 2 {
            let operator = numbers.of(&[PatchOperator::Replace, PatchOperator::ArrayAppend]);
            return Change::Patch(Patch { document_id, operator, field: "f".into(), value });
        }
        let content = match numbers.below(3) {
            0 => ContentDraft::None,
            1 => ContentDraft::Text(format!("text {}", numbers.below(100))),
            _ => {
                let (file, version) = self.container().await;
                versions.push((file, version));
                ContentDraft::Version { version, size: 10 }
            }
        };
        let metadata = Map::from_iter([("f".to_owned(), value)]);
        let draft = Box::new(ItemDraft { document_id, content, metadata, ..ItemDraft::default() });
        if kind == 3 { Change::Merge(draft) } else { Change::Put(draft) }
    }

    /// Applies a push, so many changes at once, and tells what came of it.
    async fn applied(
        &self,
        (kind, ordering): (PushKind, u128),
        changes: &[Change],
        versions: &[(FileId, VersionId)],
        at_once: usize,
    ) -> String {
        let mut push = self.push(kind, ordering, changes);
        let used = |(file, version): &(FileId, VersionId)| FileUse {
            file: *file,
            version: *version,
            call: Vec::new(),
            as_content: true,
        };
        push.uses = versions.iter().map(used).collect();
        let request = push.request;
        assert!(matches!(self.store.accept(push).await.unwrap(), Accepted::New(_)));
        let lease = self.store.lease_push(self.now, LEASE).await.unwrap().expect("a push is due");
        assert_eq!(lease.request, request);
        self.finish_by(&lease, changes, at_once).await;
        let push = self.store.push(&tenant(), request).await.unwrap().unwrap();
        format!("{:?} {:?} {:?}", push.state, push.counts, push.failures)
    }

    /// Everything that can be seen of the source.
    async fn seen(&self, versions: &[(FileId, VersionId)]) -> Vec<String> {
        let mut alive = Vec::new();
        for (number, (_, version)) in versions.iter().enumerate() {
            if self.store.version(&tenant(), *version).await.unwrap().is_some() {
                alive.push(*version);
            } else {
                alive.push(VersionId(uuid::Uuid::from_u128(u128::try_from(number).unwrap())));
            }
        }
        let number_of = |content: &Content| match content {
            Content::Stored { version, .. } => format!("version {:?}", alive.iter().position(|v| v == version)),
            other => format!("{other:?}"),
        };
        let filter = ItemFilter { limit: 10_000, ..ItemFilter::default() };
        let items = self.store.items(self.source.row, filter).await.unwrap();
        let mut seen: Vec<_> = items
            .iter()
            .map(|item| {
                let content = number_of(&item.content);
                format!("{:?} {:?} {:?} {content} {:?}", item.document_id, item.ordering, item.metadata, item.state)
            })
            .collect();
        seen.sort();
        seen.push(format!("{:?}", alive.iter().map(|v| v.0.as_u128() < 1_000).collect::<Vec<_>>()));
        seen
    }
}

async fn applied_together_or_one_by_one_changes_leave_the_same(case: Case) {
    let mut case = case;
    for seed in 0..12 {
        let mut told = Vec::new();
        for at_once in [usize::MAX, 1, 3] {
            case.in_source(format!("source-{seed}-{at_once}")).await;
            let mut numbers = Numbers(seed);
            let (mut versions, mut said) = (Vec::new(), Vec::new());
            for _ in 0..4 {
                let first = versions.len();
                let mut changes = Vec::new();
                for _ in 0..=numbers.below(25) {
                    changes.push(case.change(&mut numbers, &mut versions).await);
                }
                let kind = numbers.of(&[PushKind::Items, PushKind::Items, PushKind::Load]);
                let ordering = u128::try_from(numbers.below(4) + 1).unwrap();
                said.push(case.applied((kind, ordering), &changes, &versions[first..], at_once).await);
                said.extend(case.seen(&versions).await);
                if numbers.below(2) == 0 {
                    case.extract_all().await;
                }
                case.sound().await;
            }
            case.extract_all().await;
            said.extend(case.seen(&versions).await);
            case.sound().await;
            told.push(said);
        }
        assert_eq!(told[0], told[1], "all at once and one by one, seed {seed}");
        assert_eq!(told[0], told[2], "all at once and three at once, seed {seed}");
    }
}

on_every_store! {
    applied_together_or_one_by_one_changes_leave_the_same;
}

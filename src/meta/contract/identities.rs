//! Changes of security identities, however many of them are applied at once.

use super::items::Numbers;
use super::*;

const NAMES: [&str; 5] = ["a", "b", "A", "ü\u{10fffe}\"\\", "nul\0"];

fn identity(name: &str, kind: IdentityKind) -> Identity {
    Identity { name: name.into(), kind, additional: Map::new() }
}

fn put(identity: Identity, relation: IdentityRelation) -> IdentityChange {
    IdentityChange::Put { relation, identity, related: vec![json!({"name": "u"})], well_knowns: Vec::new() }
}

impl Case {
    /// Applies a push, so many changes at once; what was counted.
    async fn identified(
        &self,
        (kind, provider, ordering): (PushKind, &str, u128),
        changes: &[IdentityChange],
        at_once: usize,
    ) -> PushCounts {
        let push = NewPush { source: None, target: provider.into(), ..self.push(kind, ordering, &[]) };
        let request = push.request;
        self.store.accept(push).await.unwrap();
        let lease = self.store.lease_push(self.now, LEASE).await.unwrap().unwrap();
        for some in changes.chunks(at_once) {
            let some = some.iter().map(|change| (change.clone(), 1)).collect();
            self.store.apply_identities(&lease, some, self.now).await.unwrap();
        }
        while self.store.apply_deletions(&lease, self.now, ZERO).await.unwrap() {}
        self.store.finish_push(&lease, None, self.now, ZERO).await.unwrap();
        self.store.push(&tenant(), request).await.unwrap().unwrap().counts
    }
}

async fn identities_are_ordered_like_items(case: Case) {
    let of_group = || identity("a", IdentityKind::Group);
    let change = put(of_group(), IdentityRelation::Members);
    let run = async |kind, ordering, changes: Vec<IdentityChange>| {
        case.identified((kind, "p", ordering), &changes, usize::MAX).await
    };
    assert_eq!(run(PushKind::Identities, 5, vec![change.clone()]).await.added, 1);
    assert_eq!(run(PushKind::Identities, 4, vec![change.clone()]).await.older, 1);
    assert_eq!(run(PushKind::Identities, 6, vec![change.clone()]).await.updated, 1);
    assert_eq!(run(PushKind::IdentitiesOlderThan, 6, Vec::new()).await.deleted, 0);
    assert_eq!(run(PushKind::IdentitiesOlderThan, 7, Vec::new()).await.deleted, 1);
    assert_eq!(run(PushKind::Identities, 8, vec![change]).await.added, 1);
    let delete = IdentityChange::Delete { identity: of_group() };
    assert_eq!(run(PushKind::Identities, 9, vec![delete]).await.deleted, 1);
}

async fn a_deletion_takes_every_relation_of_one_identity_and_no_other(case: Case) {
    let (user, group) = (identity("a", IdentityKind::User), identity("a", IdentityKind::Group));
    let both = [IdentityRelation::Members, IdentityRelation::Mappings].map(|relation| put(group.clone(), relation));
    let before = [both[0].clone(), both[1].clone(), put(user.clone(), IdentityRelation::Members)];
    assert_eq!(case.identified((PushKind::Identities, "p", 1), &before, usize::MAX).await.added, 3);
    assert_eq!(
        case.identified((PushKind::Identities, "q", 1), &before, usize::MAX).await.added,
        3,
        "another provider's"
    );
    let change = [IdentityChange::Delete { identity: group.clone() }, IdentityChange::Delete { identity: group }];
    assert_eq!(case.identified((PushKind::Identities, "p", 2), &change, usize::MAX).await.deleted, 1);
    assert_eq!(case.identified((PushKind::IdentitiesOlderThan, "p", 9), &[], usize::MAX).await.deleted, 1, "the user");
    assert_eq!(case.identified((PushKind::IdentitiesOlderThan, "q", 9), &[], usize::MAX).await.deleted, 3);
}

async fn applied_together_or_one_by_one_identities_are_the_same(case: Case) {
    for seed in 0..12 {
        let mut told = Vec::new();
        for at_once in [usize::MAX, 1, 3] {
            let provider = format!("provider-{seed}-{at_once}");
            let mut numbers = Numbers(seed);
            let mut said = Vec::new();
            for _ in 0..6 {
                let change = |numbers: &mut Numbers| {
                    let identity = identity(numbers.of(&NAMES), numbers.of(&IdentityKind::ALL));
                    match numbers.below(3) {
                        0 => IdentityChange::Delete { identity },
                        1 => put(identity, IdentityRelation::Members),
                        _ => put(identity, IdentityRelation::Mappings),
                    }
                };
                let changes: Vec<_> = (0..=numbers.below(40)).map(|_| change(&mut numbers)).collect();
                let ordering = u128::try_from(numbers.below(4) + 1).unwrap();
                said.push(case.identified((PushKind::Identities, &provider, ordering), &changes, at_once).await);
            }
            let ordering = u128::try_from(numbers.below(4) + 1).unwrap();
            for ordering in [ordering, 9] {
                said.push(case.identified((PushKind::IdentitiesOlderThan, &provider, ordering), &[], at_once).await);
            }
            assert!(said.iter().any(|counts| counts.updated > 0) && said.iter().any(|counts| counts.deleted > 0));
            told.push(said);
        }
        assert_eq!(told[0], told[1], "all at once and one by one, seed {seed}");
        assert_eq!(told[0], told[2], "all at once and three at once, seed {seed}");
    }
}

on_every_store! {
    identities_are_ordered_like_items;
    a_deletion_takes_every_relation_of_one_identity_and_no_other;
    applied_together_or_one_by_one_identities_are_the_same;
}

//! What must happen after a commit or registration: outbox rows, done by the processor.

/// The kind of a job; its subject is a row's number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum JobKind {
    /// Make an item findable: unpack, extract text, index. The subject is the item.
    Extract,
    /// Take an item out of the index. The subject is the item.
    Unindex,
}

impl JobKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Extract, Self::Unindex];

    /// The stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Extract => "extract",
            Self::Unindex => "unindex",
        }
    }

    /// Reads the stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == name)
    }
}

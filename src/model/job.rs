//! What must happen after a commit or registration: outbox rows, done by the processor.

/// The kind of a job; its subject is a row's number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum JobKind {
    /// Make an item findable: unpack, extract text, index. The subject is the item.
    Extract,
    /// Take an item out of the index. The subject is the item.
    Unindex,
    /// Make a store's file findable: extract text, split it, index the chunks. The subject is the store's file.
    Process,
    /// Take a file's chunks out of the index. The subject is what was the store's file.
    Forget,
    /// Take the files out of a store that was deleted. The subject is the store.
    Empty,
}

impl JobKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Extract, Self::Unindex, Self::Process, Self::Forget, Self::Empty];

    /// The stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Extract => "extract",
            Self::Unindex => "unindex",
            Self::Process => "process",
            Self::Forget => "forget",
            Self::Empty => "empty",
        }
    }

    /// What its subject is: rows of different things share their numbers.
    #[must_use]
    pub const fn subject(self) -> Subject {
        match self {
            Self::Extract | Self::Unindex => Subject::Item,
            Self::Process | Self::Forget => Subject::StoreFile,
            Self::Empty => Subject::Store,
        }
    }

    /// Reads the stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == name)
    }
}

/// What a job is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Subject {
    /// An item of a source.
    Item,
    /// A file of a store.
    StoreFile,
    /// A store.
    Store,
}

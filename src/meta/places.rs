//! Where the bytes are that rows name, and that they lie elsewhere now.

use crate::clock::Timestamp;
use crate::model::file::Piece;
use crate::model::ids::{PlaceId, SegmentId, TenantId, VersionId};

/// A piece of a version: where it stands among all pieces, and what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlacedPiece {
    /// Its version.
    pub version: VersionId,
    /// Its number in the version, from 0.
    pub position: u32,
    /// Whose it is.
    pub tenant: TenantId,
    /// The piece.
    pub piece: Piece,
    /// May its bytes still be looked for by the name that they have? Its client may yet send others to the store, and what
    /// was committed is told from those by its name.
    pub looked_for: bool,
}

/// A copy that is made of a piece, or goes on being made. It is due for deletion from the beginning, and that is taken back when
/// it takes the piece's place: so it goes when nobody ends it, and nothing that was deleted is ever relied on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IntendedCopy {
    /// Whose piece it is.
    pub tenant: TenantId,
    /// The copy's name.
    pub segment: SegmentId,
    /// Where it will be.
    pub place: PlaceId,
    /// When it was due before, if this only gives it more time.
    pub before: Option<Timestamp>,
    /// When it may be deleted.
    pub due: Timestamp,
}

/// That a copy takes the place of a piece.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MovePiece {
    /// The version.
    pub version: VersionId,
    /// The piece's number in it.
    pub position: u32,
    /// Whose it is.
    pub tenant: TenantId,
    /// The segment that was copied.
    pub from: SegmentId,
    /// The copy, durable and compared.
    pub to: Piece,
    /// When the copy is due for deletion, if it is not used: what its [`IntendedCopy`] said last.
    pub intended: Timestamp,
    /// When the segment may be deleted.
    pub due: Timestamp,
}

/// What rows name at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HeldAt {
    /// Pieces of versions.
    pub pieces: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Uploads in progress that have sent something there, or may yet.
    pub uploads: u64,
    /// Segments that are to be deleted.
    pub due: u64,
}

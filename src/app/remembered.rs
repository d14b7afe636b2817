//! Which places for bytes a database remembers, by what names and numbers, and what marks them as its own.

use std::fmt;
use std::io;
use std::path::Path;

use super::StartError;
use crate::blob::write_durably;
use crate::clock::random_uuid;
use crate::meta::MetaStore;
use crate::model::ids::PlaceId;

/// The setting that remembers the first place, what those of the others begin with, and the file of a data directory that has
/// the name of its bytes.
pub(super) const PLACE: &str = "storage";
/// The file of a data directory that says whose bytes lie there.
const OWNER: &str = "owner";
/// As many places a database remembers at most.
const PLACES: u32 = 100;
/// The word that buckets are remembered by.
const BUCKET: &str = "bucket";
/// What the first place's text begins with in a database of several. Programs that know of one place read another kind of
/// place in it than the one that is configured, and do not start.
const SEVERAL: [(&str, bool); 2] = [("bucket several ", true), ("several ", false)];

/// A place for bytes, as it is remembered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// A data directory: the name in its file. Facts that lie in the same directory do without.
    Disk(String),
    /// One that others can reach: the scheme of its URL, and the rest.
    Remote(String, String),
}

impl Place {
    fn stored(&self) -> String {
        match self {
            Self::Disk(name) => format!("disk {name}"),
            Self::Remote(scheme, name) if scheme == "s3" => format!("{BUCKET} {name}"),
            Self::Remote(scheme, name) => format!("{scheme} {name}"),
        }
    }

    fn read(text: &str) -> Self {
        match text.split_once(' ') {
            Some(("disk", name)) => Self::Disk(name.to_owned()),
            Some((BUCKET, name)) => Self::Remote("s3".into(), name.to_owned()),
            Some((scheme, name)) => Self::Remote(scheme.to_owned(), name.to_owned()),
            None => Self::Disk(text.to_owned()),
        }
    }

    pub(super) const fn is_disk(&self) -> bool {
        matches!(self, Self::Disk(_))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(name) if name.is_empty() => f.write_str("on the disk"),
            Self::Disk(name) => write!(f, "on the disk of the data directory whose file `{PLACE}` says {name}"),
            Self::Remote(scheme, name) => write!(f, "in {scheme}://{name}"),
        }
    }
}

/// A place with the number that rows have of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Remembered {
    pub(super) number: PlaceId,
    pub(super) place: Place,
    /// Tells its mark from that of every other place. The first has none.
    id: Option<String>,
}

impl Remembered {
    /// The first place of a database that remembers none.
    pub(super) const fn first(place: Place) -> Self {
        Self { number: PlaceId::FIRST, place, id: None }
    }

    /// The next one, under a number that may be taken by then.
    fn next(number: PlaceId, place: Place) -> Self {
        Self { number, place, id: Some(random_uuid().to_string()) }
    }

    /// What says at the place itself that it is this one. An older state of the database, which remembers fewer places, can't
    /// take it for another.
    pub(super) fn mark(&self, installation: &str) -> String {
        match &self.id {
            Some(id) => format!("{installation} {id}"),
            None => installation.to_owned(),
        }
    }

    fn stored(&self) -> Vec<u8> {
        match &self.id {
            Some(id) => format!("{id} {}", self.place.stored()),
            None => self.place.stored(),
        }
        .into_bytes()
    }

    fn read(number: PlaceId, stored: &[u8]) -> Self {
        let text = String::from_utf8_lossy(stored);
        if number.is_first() {
            let rest = SEVERAL.iter().find_map(|(word, _)| text.strip_prefix(word));
            return Self::first(Place::read(rest.unwrap_or(&text)));
        }
        match text.split_once(' ').filter(|(id, _)| id.len() == 36) {
            Some((id, place)) => Self { number, place: Place::read(place), id: Some(id.to_owned()) },
            None => Self { number, place: Place::read(&text), id: None },
        }
    }
}

fn setting(number: PlaceId) -> String {
    if number.is_first() { PLACE.into() } else { format!("{PLACE}.{number}") }
}

/// The places that a database remembers, in the order of their numbers.
pub(super) async fn all(meta: &dyn MetaStore) -> Result<Vec<Remembered>, StartError> {
    let mut known = Vec::new();
    for number in (0..PLACES).map(PlaceId) {
        let Some(stored) = meta.setting(&setting(number)).await? else { break };
        known.push(Remembered::read(number, &stored));
    }
    Ok(known)
}

/// Remembers a place under the next number that is free, unless it is known: then that is what it is. What others remembered
/// meanwhile is known as well afterwards.
pub(super) async fn remember(
    meta: &dyn MetaStore,
    known: &mut Vec<Remembered>,
    place: &Place,
) -> Result<Remembered, StartError> {
    loop {
        if let Some(remembered) = known.iter().find(|remembered| remembered.place == *place) {
            return Ok(remembered.clone());
        }
        if let Some(other) = known.iter().find(|remembered| place.is_disk() && remembered.place.is_disk()) {
            return Ok(other.clone());
        }
        let number = u32::try_from(known.len()).unwrap_or(PLACES);
        if number >= PLACES {
            let full =
                format!("this database remembers {PLACES} places for bytes, the most that it can: name one of those");
            return Err(StartError::Io(io::Error::other(full)));
        }
        let new = match number {
            0 => Remembered::first(place.clone()),
            number => Remembered::next(PlaceId(number), place.clone()),
        };
        if let (1, Some(first)) = (number, known.first()) {
            let on_disk = first.place.is_disk();
            let word = SEVERAL.iter().find(|(_, of_disk)| *of_disk == on_disk).map_or("", |(word, _)| word);
            let text = format!("{word}{}", first.place.stored());
            meta.set_setting(PLACE, text.into_bytes(), false).await?;
        }
        let kept = meta.set_setting(&setting(new.number), new.stored(), true).await?;
        let kept = Remembered::read(new.number, &kept);
        known.push(kept.clone());
        if number == 0 {
            // Where a database begins only one process decides.
            return Ok(kept);
        }
    }
}

/// A small file of a data directory.
fn file(directory: &Path, name: &str) -> io::Result<Option<String>> {
    match std::fs::read_to_string(directory.join(name)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The name by which databases know the disk of a data directory.
pub(super) fn disk_name(directory: &Path) -> io::Result<Option<String>> {
    file(directory, PLACE)
}

/// Gives it one.
pub(super) fn name_disk(directory: &Path) -> io::Result<Place> {
    let name = random_uuid().to_string();
    write_durably(&directory.join(PLACE), format!("{name}\n").as_bytes())?;
    Ok(Place::Disk(name))
}

/// What the mark of its disk says, if it has one.
pub(super) fn disk_owner(directory: &Path) -> io::Result<Option<String>> {
    file(directory, OWNER)
}

/// Does the disk of a data directory have this mark? One that has none has it from now on, if it may be taken.
pub(super) fn claim_disk(directory: &Path, mark: &str, may_be_taken: bool) -> Result<bool, StartError> {
    match disk_owner(directory)? {
        Some(owner) if owner == mark => Ok(true),
        Some(_) => Err(foreign_disk(
            directory,
            "its file `owner` says that its bytes belong to another installation, or to a later state of this database",
        )),
        None if may_be_taken => {
            write_durably(&directory.join(OWNER), format!("{mark}\n").as_bytes())?;
            Ok(true)
        }
        None => Ok(false),
    }
}

/// Bytes that this database does not name, and would remove.
pub(super) fn foreign_disk(directory: &Path, why: &str) -> StartError {
    let remedy = "Give each database a data directory of its own. If nothing there is wanted, remove `blobs` and `owner` from it";
    StartError::Data { directory: directory.display().to_string(), error: io::Error::other(format!("{why}. {remedy}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_read_again() {
        let places = [
            Place::Disk(String::new()),
            Place::Disk("name".into()),
            Place::Remote("s3".into(), "bytes/a b/".into()),
            Place::Remote("gs".into(), "bytes/".into()),
        ];
        for place in places {
            let first = Remembered::first(place.clone());
            assert_eq!(Remembered::read(PlaceId::FIRST, &first.stored()), first);
            for (word, _) in SEVERAL {
                let text = format!("{word}{}", place.stored());
                assert_eq!(Remembered::read(PlaceId::FIRST, text.as_bytes()), first);
            }
            let next = Remembered::next(PlaceId(3), place);
            assert_eq!(Remembered::read(PlaceId(3), &next.stored()), next);
            assert_ne!(first.mark("here"), next.mark("here"));
        }
    }
}

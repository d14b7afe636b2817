//! Where the bytes are that a database names. It remembers every place by a number, because a process that looks elsewhere
//! would find none of them, and keep its own where no other looks.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::StartError;
use super::stores::{self, Access, Opened};
use crate::blob::{BlobStore, Places, Wanted, write_durably};
use crate::clock::{Clock, Timestamp, random_uuid};
use crate::config::{Config, ConfigError, Storage};
use crate::meta::MetaStore;
use crate::model::ids::PlaceId;

/// The setting that remembers the first place, what those of the others begin with, and the file of a data directory that has
/// the name of its bytes.
const PLACE: &str = "storage";
/// Which places the last process that started writes to and reads: their numbers, the former first.
const NOW: &str = "storage.now";
/// Tells this database's bytes from another's in a bucket.
const INSTALLATION: &str = "installation";
/// As many places a database remembers at most.
const PLACES: u32 = 100;

/// A place for bytes, as it is remembered.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    /// A data directory: the name in its file. Facts that lie in the same directory do without.
    Disk(String),
    /// One that others can reach: the scheme of its URL, and the rest.
    Remote(String, String),
}

/// The word that buckets are remembered by.
const BUCKET: &str = "bucket";

impl Place {
    fn stored(&self) -> Vec<u8> {
        match self {
            Self::Disk(name) => format!("disk {name}"),
            Self::Remote(scheme, name) if scheme == "s3" => format!("{BUCKET} {name}"),
            Self::Remote(scheme, name) => format!("{scheme} {name}"),
        }
        .into_bytes()
    }

    fn read(stored: &[u8]) -> Self {
        let text = String::from_utf8_lossy(stored);
        match text.split_once(' ') {
            Some(("disk", name)) => Self::Disk(name.to_owned()),
            Some((BUCKET, name)) => Self::Remote("s3".into(), name.to_owned()),
            Some((scheme, name)) => Self::Remote(scheme.to_owned(), name.to_owned()),
            None => Self::Disk(text.into_owned()),
        }
    }

    const fn is_disk(&self) -> bool {
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

/// A configured place, and which of the remembered ones it is.
struct Site {
    opened: Opened,
    /// What it is called; a disk that has no name yet has none.
    place: Option<Place>,
    number: Option<PlaceId>,
    /// Is it another name's copy of the place with its number?
    is_copy: bool,
}

/// The configured places, the one for new segments first.
struct Sites<'a> {
    config: &'a Config,
    meta: &'a dyn MetaStore,
    sites: Vec<Site>,
    known: Vec<(PlaceId, Place)>,
    now: Timestamp,
}

fn own_name(directory: &Path) -> std::io::Result<Option<String>> {
    match std::fs::read_to_string(directory.join(PLACE)) {
        Ok(name) => Ok(Some(name.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn setting(number: PlaceId) -> String {
    if number.is_first() { PLACE.into() } else { format!("{PLACE}.{number}") }
}

fn named(config: &Config, meta: &dyn MetaStore, storage: &Storage) -> Result<Option<Place>, StartError> {
    match stores::name(storage) {
        Some((scheme, name)) => Ok(Some(Place::Remote(scheme.into(), name))),
        // Facts that lie beside the bytes need no name for them.
        None if !meta.is_shared() => Ok(Some(Place::Disk(String::new()))),
        None => Ok(own_name(&config.data)?.map(Place::Disk)),
    }
}

fn configured(config: &Config) -> impl Iterator<Item = &Storage> {
    std::iter::once(&config.storage).chain(&config.more_storage)
}

/// The places that the last process which started writes to and reads.
async fn in_use(meta: &dyn MetaStore) -> Result<Vec<PlaceId>, StartError> {
    let text = meta.setting(NOW).await?.and_then(|text| String::from_utf8(text).ok()).unwrap_or_default();
    let numbers: Vec<PlaceId> = text.split(' ').filter_map(|word| word.parse().ok().map(PlaceId)).collect();
    Ok(if numbers.is_empty() { vec![PlaceId::FIRST] } else { numbers })
}

impl<'a> Sites<'a> {
    async fn open(
        config: &'a Config,
        meta: &'a dyn MetaStore,
        clock: &Clock,
        access: Access,
    ) -> Result<Self, StartError> {
        let mut sites: Vec<Site> = Vec::new();
        for storage in configured(config) {
            let place = named(config, meta, storage)?;
            if sites.iter().any(|site| site.place == place) {
                let value = place.map_or_else(|| "disk".into(), |place| place.to_string());
                let remedy = String::from("each place is named once, here or in `storage`");
                return Err(ConfigError::Invalid { field: "more_storage", value, remedy }.into());
            }
            let opened = stores::open(storage, config, clock, access)?;
            sites.push(Site { opened, place, number: None, is_copy: false });
        }
        let mut known = Vec::new();
        for number in (0..PLACES).map(PlaceId) {
            let Some(stored) = meta.setting(&setting(number)).await? else { break };
            known.push((number, Place::read(&stored)));
        }
        Ok(Self { config, meta, sites, known, now: clock.now() })
    }

    /// Finds out which of the remembered places the configured ones are, and that none is missing. A place that nobody
    /// writes to and no row needs may be missing.
    async fn recognize(&mut self, installation: Option<&str>) -> Result<(), StartError> {
        let mut absent = Vec::new();
        let writing = in_use(self.meta).await?.first().copied().unwrap_or_default();
        for (number, place) in &self.known {
            let same = |own: &Place| match (place, own) {
                (Place::Disk(_), Place::Disk(_)) if !self.meta.is_shared() => true,
                _ => place == own,
            };
            match self.sites.iter_mut().find(|site| site.number.is_none() && site.place.as_ref().is_some_and(same)) {
                Some(site) => site.number = Some(*number),
                None => {
                    let needed = *number == writing || self.meta.names_bytes_at(*number, self.now).await?;
                    absent.push((*number, place.clone(), needed));
                }
            }
        }
        if let Some(installation) = installation {
            self.find_copies(&mut absent, installation).await?;
        }
        match absent.iter().find(|(_, _, needed)| *needed) {
            Some((_, place, _)) => Err(self.elsewhere(place)),
            None => Ok(()),
        }
    }

    /// A place that others can reach and that nobody remembers by its name is a copy of one that is absent, if it has the
    /// owner's mark: a new one gets that after its name is remembered. Without it, it is new or a mistake.
    async fn find_copies(
        &mut self,
        absent: &mut Vec<(PlaceId, Place, bool)>,
        installation: &str,
    ) -> Result<(), StartError> {
        for index in 0..self.sites.len() {
            let among: Vec<_> = absent.iter().filter(|(_, place, _)| !place.is_disk()).cloned().collect();
            let Site { opened, number: None, .. } = &self.sites[index] else { continue };
            let Some(reachable) = opened.reachable.as_ref().filter(|_| !among.is_empty()) else { continue };
            if !reachable.claim(installation, false).await? {
                continue;
            }
            let needed: Vec<_> = among.iter().filter(|(_, _, needed)| *needed).collect();
            let (number, _, _) = match (needed.as_slice(), among.as_slice()) {
                ([one], _) => one,
                ([], [one]) => one,
                // Nobody can tell of which.
                (_, several) => return Err(self.elsewhere(&several[0].1)),
            };
            let number = *number;
            self.sites[index].number = Some(number);
            self.sites[index].is_copy = true;
            absent.retain(|(absent, _, _)| *absent != number);
        }
        Ok(())
    }

    fn elsewhere(&self, known: &Place) -> StartError {
        let data = self.config.data.display();
        let shared = self.meta.is_shared();
        let shown = |site: &Site| match &site.place {
            Some(Place::Disk(own)) if shared => format!("in {data}, whose file `{PLACE}` says {own}"),
            Some(Place::Disk(_)) => format!("in {data}"),
            Some(place) => place.to_string(),
            None => format!("in {data}, which has no file `{PLACE}`"),
        };
        let here = self.sites.iter().map(shown).collect::<Vec<_>>().join(" and ");
        let on_disk = self.sites.iter().any(|site| site.opened.reachable.is_none());
        let remedy = match known {
            Place::Disk(name) if shared && on_disk => format!(
                "Several processes at one database need a bucket (the field `storage`). One needs the data directory that holds \
                 the bytes: if it is {data}, put back from a backup, write {name} into {data}/{PLACE}"
            ),
            Place::Disk(_) => "Set `storage` to `disk`, or name the disk in `more_storage` until its bytes are moved \
                               (`landfall admin move`) and every process writes elsewhere"
                .into(),
            Place::Remote(scheme, name) => format!(
                "Give every process at this database the same `storage`, {scheme}://{name}, or name that in `more_storage` \
                 until its bytes are moved (`landfall admin move`) and every process writes elsewhere. A copy of it is taken as \
                 well, if it has the object `owner`"
            ),
        };
        StartError::Elsewhere { known: known.to_string(), here, remedy }
    }

    /// The name of a disk that has none yet, in a database that several processes may use.
    fn name_disk(&mut self, index: usize) -> Result<Place, StartError> {
        if let Some(place) = &self.sites[index].place {
            return Ok(place.clone());
        }
        let name = random_uuid().to_string();
        write_durably(&self.config.data.join(PLACE), format!("{name}\n").as_bytes())?;
        let place = Place::Disk(name);
        self.sites[index].place = Some(place.clone());
        Ok(place)
    }

    async fn check(&self, index: usize, wanted: Wanted) -> Result<(), StartError> {
        // Only where new segments go do clients send them themselves.
        let wanted = if index == 0 { wanted } else { Wanted::default() };
        match &self.sites[index].opened.reachable {
            Some(reachable) => reachable.check(wanted).await,
            None => Ok(()),
        }
    }

    /// Remembers a place under the next number that is free.
    async fn remember(&mut self, place: Place) -> Result<PlaceId, StartError> {
        let first = u32::try_from(self.known.len()).unwrap_or(PLACES);
        for number in (first..PLACES).map(PlaceId) {
            let kept = Place::read(&self.meta.set_setting(&setting(number), place.stored(), true).await?);
            self.known.push((number, kept.clone()));
            if kept == place {
                return Ok(number);
            }
        }
        Err(StartError::Io(std::io::Error::other("this database remembers too many places for bytes")))
    }

    /// The store of all places that have a number.
    fn assemble(self, writing: Option<PlaceId>) -> Arc<dyn BlobStore> {
        let alone = self.known.len() <= 1 && self.sites.len() == 1;
        let mut all: Vec<(PlaceId, Arc<dyn BlobStore>)> =
            self.sites.into_iter().filter_map(|site| Some((site.number?, site.opened.store))).collect();
        if let Some(at) = writing.and_then(|writing| all.iter().position(|(number, _)| *number == writing)) {
            all.swap(0, at);
        }
        let current = all.remove(0);
        if alone { current.1 } else { Arc::new(Places::new(current, all)) }
    }
}

async fn installation(meta: &dyn MetaStore) -> Result<String, StartError> {
    let id = match meta.setting(INSTALLATION).await? {
        Some(id) => id,
        None => meta.set_setting(INSTALLATION, random_uuid().to_string().into_bytes(), true).await?,
    };
    Ok(String::from_utf8_lossy(&id).into_owned())
}

/// Opens the configured places. Can they be used, and are they all where this database has bytes? The first process decides
/// where it begins, and each may add places. The one for new segments has to do what is `wanted` of it as well.
pub(super) async fn settle(
    config: &Config,
    meta: &dyn MetaStore,
    clock: &Clock,
    wanted: Wanted,
) -> Result<Arc<dyn BlobStore>, StartError> {
    let mut sites = Sites::open(config, meta, clock, Access::Write).await?;
    let installation = installation(meta).await?;
    let mut checked = false;
    if sites.known.is_empty() {
        // Before it is remembered: a place that can't be used is corrected.
        sites.check(0, wanted).await?;
        checked = true;
        let place = sites.name_disk(0)?;
        let kept = Place::read(&meta.set_setting(PLACE, place.stored(), true).await?);
        sites.known.push((PlaceId::FIRST, kept));
    }
    sites.recognize(Some(&installation)).await?;
    for index in 0..sites.sites.len() {
        if index > 0 || !checked {
            sites.check(index, wanted).await?;
        }
        if sites.sites[index].number.is_none() {
            // Bytes of one database are on one disk at most, whose process is the only one.
            let on_disk = sites.sites[index].opened.reachable.is_none();
            if let Some((_, disk)) = sites.known.iter().find(|(_, place)| on_disk && place.is_disk()) {
                return Err(sites.elsewhere(&disk.clone()));
            }
            let place = sites.name_disk(index)?;
            sites.sites[index].number = Some(sites.remember(place).await?);
        }
        let site = &sites.sites[index];
        if let (Some(reachable), false) = (&site.opened.reachable, site.is_copy) {
            reachable.claim(&installation, true).await?;
        }
    }
    let numbers: Vec<String> = sites.sites.iter().filter_map(|site| Some(site.number?.to_string())).collect();
    meta.set_setting(NOW, numbers.join(" ").into_bytes(), false).await?;
    Ok(sites.assemble(None))
}

/// The same for one who only looks: nothing is made or remembered.
pub(super) async fn compare(
    config: &Config,
    meta: &dyn MetaStore,
    clock: &Clock,
) -> Result<Arc<dyn BlobStore>, StartError> {
    let mut sites = Sites::open(config, meta, clock, Access::Read).await?;
    match meta.setting(INSTALLATION).await? {
        Some(id) => sites.recognize(Some(&String::from_utf8_lossy(&id))).await?,
        None => sites.recognize(None).await?,
    }
    if sites.known.is_empty() {
        // No server has been here: what is configured is what there is.
        sites.sites.truncate(1);
        sites.sites[0].number = Some(PlaceId::FIRST);
    }
    Ok(sites.assemble(None))
}

/// The places for one who moves bytes: new segments go to `to`. With it the number of `from`.
pub(super) async fn between(
    config: &Config,
    meta: &dyn MetaStore,
    clock: &Clock,
    from: &Storage,
    to: &Storage,
) -> Result<(Arc<dyn BlobStore>, PlaceId), StartError> {
    let mut sites = Sites::open(config, meta, clock, Access::Write).await?;
    let id = meta.setting(INSTALLATION).await?;
    sites.recognize(id.as_deref().map(String::from_utf8_lossy).as_deref()).await?;
    let in_use = in_use(meta).await?;
    let number = |storage: &Storage| {
        let place = named(config, meta, storage)?;
        let shown = place.as_ref().map_or_else(|| "on the disk".into(), Place::to_string);
        let site = sites.sites.iter().find(|site| site.place == place);
        let unmovable = |reason| StartError::Unmovable { place: shown.clone(), reason };
        let site = site.ok_or_else(|| unmovable("it is configured neither as `storage` nor in `more_storage`"))?;
        let started = "no server was started with it: every process at this database has to be, before bytes are moved";
        site.number.filter(|number| in_use.contains(number)).ok_or_else(|| unmovable(started))
    };
    let (from, to) = (number(from)?, number(to)?);
    if from == to {
        let place = sites.known.iter().find(|(number, _)| *number == to).map(|(_, place)| place.to_string());
        return Err(StartError::Unmovable { place: place.unwrap_or_default(), reason: "they are there" });
    }
    Ok((sites.assemble(Some(to)), from))
}

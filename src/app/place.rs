//! Where the bytes are that a database names. It remembers every place by a number, because a process that looks elsewhere
//! would find none of them, and keep its own where no other looks.

use std::sync::Arc;

use super::StartError;
use super::remembered::{self, PLACE, Place, Remembered};
use super::stores::{self, Access, Opened};
use crate::blob::{BlobStore, Places, Wanted};
use crate::clock::{Clock, Timestamp, random_uuid};
use crate::config::{Config, ConfigError, Storage};
use crate::faults;
use crate::meta::{HeldAt, MetaStore};
use crate::model::ids::PlaceId;

/// Which places the last process that started writes to and reads: their numbers, the former first.
const NOW: &str = "storage.now";
/// Tells this database's bytes from another's in a bucket, or on a disk.
const INSTALLATION: &str = "installation";

/// A configured place, and which of the remembered ones it is.
struct Site {
    opened: Opened,
    /// What it is called; a disk that has no name yet has none.
    place: Option<Place>,
    number: Option<PlaceId>,
    /// Could it not be used when it was looked at?
    is_away: bool,
}

/// The configured places, the one for new segments first.
struct Sites<'a> {
    config: &'a Config,
    meta: &'a dyn MetaStore,
    sites: Vec<Site>,
    known: Vec<Remembered>,
    now: Timestamp,
}

fn named(config: &Config, meta: &dyn MetaStore, storage: &Storage) -> Result<Option<Place>, StartError> {
    match stores::name(storage) {
        Some((scheme, name)) => Ok(Some(Place::Remote(scheme.into(), name))),
        // Facts that lie beside the bytes need no name for them.
        None if !meta.is_shared() => Ok(Some(Place::Disk(String::new()))),
        None => Ok(remembered::disk_name(&config.data)?.map(Place::Disk)),
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
                let remedy = "each place is named once, here or in `storage`. Two stores whose buckets have the same name are told \
                              apart by their prefixes alone: give each a prefix of its own"
                    .into();
                return Err(ConfigError::Invalid { field: "more_storage", value, remedy }.into());
            }
            let opened = stores::open(storage, config, clock, access)?;
            sites.push(Site { opened, place, number: None, is_away: false });
        }
        let known = remembered::all(meta).await?;
        Ok(Self { config, meta, sites, known, now: clock.now() })
    }

    /// Finds out which of the remembered places the configured ones are, and that none is missing. A place that nobody
    /// writes to and no row needs may be missing.
    async fn recognize(&mut self, installation: Option<&str>) -> Result<(), StartError> {
        let mut absent = Vec::new();
        let writing = in_use(self.meta).await?.first().copied().unwrap_or_default();
        for remembered in &self.known {
            let Remembered { number, place, .. } = remembered;
            if self.sites.iter().any(|site| site.number == Some(*number)) {
                continue;
            }
            let same = |own: &Place| match (place, own) {
                (Place::Disk(_), Place::Disk(_)) if !self.meta.is_shared() => true,
                _ => place == own,
            };
            match self.sites.iter_mut().find(|site| site.number.is_none() && site.place.as_ref().is_some_and(same)) {
                Some(site) => site.number = Some(*number),
                None => {
                    let needed = *number == writing || self.meta.names_bytes_at(*number, self.now).await?;
                    absent.push((remembered.clone(), needed));
                }
            }
        }
        if let Some(installation) = installation {
            self.find_copies(&mut absent, installation).await?;
        }
        match absent.iter().find(|(_, needed)| *needed) {
            Some((remembered, _)) => Err(self.elsewhere(&remembered.place)),
            None => Ok(()),
        }
    }

    /// A place that others can reach and that nobody remembers by its name is a copy of one that is absent, if it has that
    /// one's mark. Without a mark it is new or a mistake. One of another place is not this database's, or of a later state of it.
    async fn find_copies(
        &mut self,
        absent: &mut Vec<(Remembered, bool)>,
        installation: &str,
    ) -> Result<(), StartError> {
        for Site { opened, number, .. } in &mut self.sites {
            let Some(reachable) = opened.reachable.as_ref().filter(|_| number.is_none()) else { continue };
            let (mut found, mut refused) = (None, None);
            for (remembered, _) in absent.iter().filter(|(remembered, _)| !remembered.place.is_disk()) {
                match reachable.claim(&remembered.mark(installation), false).await {
                    Ok(true) => found = Some(remembered.number),
                    Ok(false) => {}
                    Err(error) => {
                        refused.get_or_insert(error);
                        continue;
                    }
                }
                refused = None;
                break;
            }
            if let Some(refused) = refused {
                return Err(refused);
            }
            if found.is_some() {
                *number = found;
                absent.retain(|(remembered, _)| Some(remembered.number) != found);
            }
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

    fn on_disk(&self, index: usize) -> bool {
        self.sites[index].opened.reachable.is_none()
    }

    /// Does a configured place have this mark? One that has none has it from now on, if it may be taken.
    async fn claim(&self, index: usize, mark: &str, may_be_taken: bool) -> Result<bool, StartError> {
        match &self.sites[index].opened.reachable {
            Some(reachable) => reachable.claim(mark, may_be_taken).await,
            None => remembered::claim_disk(&self.config.data, mark, may_be_taken),
        }
    }

    async fn check(&self, index: usize, wanted: Wanted) -> Result<(), StartError> {
        // Only where new segments go do clients send them themselves.
        let wanted = if index == 0 { wanted } else { Wanted::default() };
        match &self.sites[index].opened.reachable {
            Some(reachable) => reachable.check(wanted).await,
            None => Ok(()),
        }
    }

    /// May a place that nobody remembers be this database's from now on? Whatever lies there and is not named by its rows will
    /// be removed. `mark` is one that it may have already.
    async fn vet(&self, index: usize, mark: &str) -> Result<(), StartError> {
        if self.claim(index, mark, false).await? || !self.on_disk(index) {
            return Ok(());
        }
        let mut found = false;
        let listed = self.sites[index].opened.store.list(&mut |batch| found |= !batch.is_empty()).await;
        let directory = &self.config.data;
        listed.map_err(|error| remembered::foreign_disk(directory, &error.to_string()))?;
        // A database that began before places were remembered has its own there.
        let held = if found && self.known.is_empty() {
            self.meta.held_at(PlaceId::FIRST, self.now).await?
        } else {
            HeldAt::default()
        };
        match found && held == HeldAt::default() {
            true => Err(remembered::foreign_disk(directory, "in `blobs` lie bytes of another database")),
            false => Ok(()),
        }
    }

    /// Remembers a configured place that nobody remembers, under the next number that is free.
    async fn admit(&mut self, index: usize, installation: &str) -> Result<(), StartError> {
        let on_disk = self.on_disk(index);
        // No mark has this id: of a database that remembers places none that has a mark already is a new one.
        let fresh = format!("{installation} {}", random_uuid());
        let mark = if self.known.is_empty() { installation } else { &fresh };
        if let Err(refused) = self.vet(index, mark).await {
            // Unless another process remembered it just now.
            self.known = remembered::all(self.meta).await?;
            let place = self.sites[index].place.as_ref();
            if on_disk || !self.known.iter().any(|remembered| Some(&remembered.place) == place) {
                return Err(refused);
            }
        }
        // Bytes of one database are on one disk at most, whose process is the only one.
        let disk = |known: &[Remembered]| known.iter().find(|known| on_disk && known.place.is_disk()).cloned();
        if let Some(disk) = disk(&self.known) {
            return Err(self.elsewhere(&disk.place));
        }
        let place = match &self.sites[index].place {
            Some(place) => place.clone(),
            None => remembered::name_disk(&self.config.data)?,
        };
        self.sites[index].place = Some(place.clone());
        faults::point("start.place");
        let remembered = remembered::remember(self.meta, &mut self.known, &place).await?;
        if remembered.place != place {
            return Err(self.elsewhere(&remembered.place));
        }
        self.sites[index].number = Some(remembered.number);
        faults::point("start.remembered");
        Ok(())
    }

    /// Makes sure that a place has the mark of its number. A new one gets it, and one that lost it before anything was there.
    async fn mark(&self, index: usize, installation: &str, is_new: bool) -> Result<(), StartError> {
        let number = self.sites[index].number;
        let Some(remembered) = self.known.iter().find(|known| Some(known.number) == number) else { return Ok(()) };
        let mark = remembered.mark(installation);
        if self.claim(index, &mark, false).await? {
            return Ok(());
        }
        // Disks had no marks once; the name of one, or the facts beside it, say whose it is.
        let may_be_taken =
            is_new || self.on_disk(index) || !self.meta.names_bytes_at(remembered.number, self.now).await?;
        match may_be_taken {
            true => self.claim(index, &mark, true).await.map(drop),
            false => Err(StartError::Unmarked { place: remembered.place.to_string(), mark }),
        }
    }

    /// The store of all places that have a number. Rows may name places that others remembered, so that one place alone is
    /// told by its number as well.
    fn assemble(self, writing: Option<PlaceId>) -> Arc<dyn BlobStore> {
        let away: Vec<PlaceId> = self.sites.iter().filter(|site| site.is_away).filter_map(|site| site.number).collect();
        let mut all: Vec<(PlaceId, Arc<dyn BlobStore>)> =
            self.sites.into_iter().filter_map(|site| Some((site.number?, site.opened.store))).collect();
        if let Some(at) = writing.and_then(|writing| all.iter().position(|(number, _)| *number == writing)) {
            all.swap(0, at);
        }
        let current = all.remove(0);
        Arc::new(Places::new(current, all).without_listing(&away))
    }
}

async fn installation(sites: &Sites<'_>) -> Result<String, StartError> {
    let meta = sites.meta;
    let id = match meta.setting(INSTALLATION).await? {
        Some(id) => id,
        None => {
            // A backup from before this was remembered: its bytes are still its own.
            let on_disk = sites.known.first().is_none_or(|first| first.place.is_disk()) && sites.on_disk(0);
            let owner = if on_disk { remembered::disk_owner(&sites.config.data)? } else { None };
            let held = owner.is_some() && meta.held_at(PlaceId::FIRST, sites.now).await? != HeldAt::default();
            let id = owner.filter(|_| held).unwrap_or_else(|| random_uuid().to_string());
            meta.set_setting(INSTALLATION, id.into_bytes(), true).await?
        }
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
    let installation = installation(&sites).await?;
    let mut checked = false;
    let begins = sites.known.is_empty();
    if begins {
        // Before it is remembered: a place that can't be used is corrected.
        sites.check(0, wanted).await?;
        checked = true;
        sites.admit(0, &installation).await?;
    }
    sites.recognize(Some(&installation)).await?;
    for index in 0..sites.sites.len() {
        let known = sites.sites[index].number;
        if index > 0 || !checked {
            match (sites.check(index, wanted).await, index, known) {
                (Ok(()), _, _) => {}
                (Err(error), 1.., Some(_)) => {
                    let place = sites.sites[index].place.as_ref().map(Place::to_string).unwrap_or_default();
                    tracing::error!(
                        %error,
                        "the bytes {place} can't be reached: what needs them is answered with 503 meanwhile, and what \
                         nobody names there is removed after a start that reaches them"
                    );
                    sites.sites[index].is_away = true;
                    continue;
                }
                (Err(error), _, _) => return Err(error),
            }
        }
        if known.is_none() {
            sites.admit(index, &installation).await?;
        }
        let is_new = known.is_none() || (begins && index == 0);
        sites.mark(index, &installation, is_new).await?;
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
    let id = meta.setting(INSTALLATION).await?.map(|id| String::from_utf8_lossy(&id).into_owned());
    sites.recognize(id.as_deref()).await?;
    let in_use = in_use(meta).await?;
    let number = |storage: &Storage| {
        let place = named(config, meta, storage)?;
        let shown = place.as_ref().map_or_else(|| "on the disk".into(), Place::to_string);
        let unmovable = |reason| StartError::Unmovable { place: shown.clone(), reason };
        let index = sites.sites.iter().position(|site| site.place == place);
        let index = index.ok_or_else(|| unmovable("it is configured neither as `storage` nor in `more_storage`"))?;
        let started = "no server was started with it: every process at this database has to be, before bytes are moved";
        let known = sites.known.iter().find(|known| Some(known.number) == sites.sites[index].number);
        let known = known.filter(|known| in_use.contains(&known.number)).ok_or_else(|| unmovable(started))?;
        Ok::<_, StartError>((
            index,
            known.clone(),
            unmovable("it has no mark `owner` of this installation: it is not the store that the servers use"),
        ))
    };
    let (from, to) = (number(from)?, number(to)?);
    if from.1.number == to.1.number {
        return Err(StartError::Unmovable { place: to.1.place.to_string(), reason: "they are there" });
    }
    let (reads, writes) = (from.1.number, to.1.number);
    // From here the same names may lead to other stores than from the servers.
    for (index, known, unmarked) in [from, to] {
        if !sites.claim(index, &known.mark(id.as_deref().unwrap_or_default()), false).await? {
            return Err(unmarked);
        }
    }
    Ok((sites.assemble(Some(writes)), reads))
}

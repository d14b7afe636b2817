//! A file system that keeps what was synced and nothing else: bytes by the sync of their file, names by the sync of
//! their directory. It lives in memory and is mounted through FUSE.
//!
//! ext4 is kinder than that: the sync of a new file commits the journal, and the file's name with it, so that a missing
//! sync of a directory can't be seen there. Other file systems need not be, and what is promised is promised for them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    AccessFlags, BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::{Outcome, disk, wait_until};

/// The kernel asks each time: what it remembers must not outlive a deletion.
const TTL: Duration = Duration::ZERO;
const ROOT: u64 = 1;

type Names = BTreeMap<OsString, u64>;

/// Each as it reads now, and as it would after a power cut.
enum Node {
    File { now: Vec<u8>, durable: Vec<u8>, changed: SystemTime },
    Directory { now: Names, durable: Names },
}

#[derive(Default)]
struct Tree {
    nodes: BTreeMap<u64, Node>,
    last: u64,
}

impl Tree {
    fn add(&mut self, node: Node) -> u64 {
        self.last += 1;
        self.nodes.insert(self.last, node);
        self.last
    }

    /// A directory as it is on another file system, durable.
    fn load(&mut self, path: &Path) -> std::io::Result<u64> {
        let number = self.add(Node::Directory { now: Names::new(), durable: Names::new() });
        let mut names = Names::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let child = if entry.file_type()?.is_dir() {
                self.load(&entry.path())?
            } else {
                let bytes = fs::read(entry.path())?;
                self.add(Node::File { now: bytes.clone(), durable: bytes, changed: entry.metadata()?.modified()? })
            };
            names.insert(entry.file_name(), child);
        }
        self.nodes.insert(number, Node::Directory { now: names.clone(), durable: names });
        Ok(number)
    }

    /// What is durable, to another file system.
    fn store(&self, number: u64, path: &Path) -> std::io::Result<()> {
        match &self.nodes[&number] {
            Node::File { durable, changed, .. } => {
                fs::write(path, durable)?;
                fs::File::options().write(true).open(path)?.set_modified(*changed)
            }
            Node::Directory { durable, .. } => {
                fs::create_dir(path)?;
                durable.iter().try_for_each(|(name, child)| self.store(*child, &path.join(name)))
            }
        }
    }

    fn names(&mut self, number: INodeNo) -> Result<&mut Names, Errno> {
        match self.nodes.get_mut(&number.0) {
            Some(Node::Directory { now, .. }) => Ok(now),
            Some(Node::File { .. }) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn enter(&mut self, parent: INodeNo, name: &OsStr, node: Node) -> Result<FileAttr, Errno> {
        if self.names(parent)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let number = self.add(node);
        self.names(parent)?.insert(name.to_owned(), number);
        self.attributes(INodeNo(number))
    }

    fn attributes(&self, number: INodeNo) -> Result<FileAttr, Errno> {
        let (kind, perm, size, changed) = match self.nodes.get(&number.0) {
            Some(Node::File { now, changed, .. }) => (FileType::RegularFile, 0o600, now.len() as u64, *changed),
            Some(Node::Directory { .. }) => (FileType::Directory, 0o700, 0, UNIX_EPOCH),
            None => return Err(Errno::ENOENT),
        };
        Ok(FileAttr {
            ino: number,
            size,
            blocks: size.div_ceil(512),
            atime: changed,
            mtime: changed,
            ctime: changed,
            crtime: changed,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

struct Strict(Arc<Mutex<Tree>>);

impl Strict {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.0.lock().expect("no panic in the file system")
    }

    fn sync(&self, number: INodeNo, reply: ReplyEmpty) {
        match self.tree().nodes.get_mut(&number.0) {
            Some(Node::File { now, durable, .. }) => durable.clone_from(now),
            Some(Node::Directory { now, durable }) => durable.clone_from(now),
            None => return reply.error(Errno::ENOENT),
        }
        reply.ok();
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.tree().names(parent).map(|names| names.remove(name)) {
            Ok(Some(_)) => reply.ok(),
            Ok(None) => reply.error(Errno::ENOENT),
            Err(error) => reply.error(error),
        }
    }
}

impl Filesystem for Strict {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut tree = self.tree();
        let found = tree.names(parent).and_then(|names| names.get(name).copied().ok_or(Errno::ENOENT));
        match found.and_then(|number| tree.attributes(INodeNo(number))) {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.tree().attributes(number) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // A segment is never truncated.
        match (size, self.tree().attributes(number)) {
            (None, Ok(attributes)) => reply.attr(&TTL, &attributes),
            (Some(_), _) => reply.error(Errno::EPERM),
            (None, Err(error)) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let node = Node::Directory { now: Names::new(), durable: Names::new() };
        match self.tree().enter(parent, name, node) {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let node = Node::File { now: Vec::new(), durable: Vec::new(), changed: SystemTime::now() };
        match self.tree().enter(parent, name, node) {
            Ok(attributes) => {
                reply.created(&TTL, &attributes, Generation(0), FileHandle(0), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.tree().nodes.get(&number.0) {
            Some(Node::File { now, .. }) => {
                let from = now.len().min(offset as usize);
                reply.data(&now[from..now.len().min(from + size as usize)]);
            }
            _ => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.tree().nodes.get_mut(&number.0) {
            Some(Node::File { now, changed, .. }) => {
                let end = offset as usize + data.len();
                now.resize(now.len().max(end), 0);
                now[offset as usize..end].copy_from_slice(data);
                *changed = SystemTime::now();
                reply.written(data.len() as u32);
            }
            _ => reply.error(Errno::EIO),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(number, reply);
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(number, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut tree = self.tree();
        let child = tree.names(parent).ok().and_then(|names| names.get(name).copied());
        if child.is_some_and(|child| tree.names(INodeNo(child)).is_ok_and(|names| !names.is_empty())) {
            return reply.error(Errno::ENOTEMPTY);
        }
        drop(tree);
        self.remove(parent, name, reply);
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut tree = self.tree();
        let names = match tree.names(number) {
            Ok(names) => names.clone(),
            Err(error) => return reply.error(error),
        };
        for (at, (name, child)) in names.iter().enumerate().skip(offset as usize) {
            let kind = tree.attributes(INodeNo(*child)).map_or(FileType::RegularFile, |a| a.kind);
            if reply.add(INodeNo(*child), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 20, 4096, 255, 4096);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }
}

/// The mounted file system. Unmounts with its guard.
pub struct Disk {
    tree: Arc<Mutex<Tree>>,
    point: PathBuf,
    session: Option<BackgroundSession>,
}

impl Disk {
    /// Mounts it over a directory, with what is in there.
    pub fn mount(point: &Path) -> Outcome<Self> {
        let mut tree = Tree::default();
        let root = tree.load(point).map_err(|e| format!("{}: {e}", point.display()))?;
        assert_eq!(root, ROOT, "the root comes first");
        let tree = Arc::new(Mutex::new(tree));
        let session = fuser::spawn_mount(Strict(Arc::clone(&tree)), point, &Config::default()).map_err(|error| {
            format!(
                "The strict power-cut tests need root and FUSE (/dev/fuse): run them as root, after `modprobe fuse`. \
                 What went wrong: {error}"
            )
        })?;
        Ok(Self { tree, point: point.to_owned(), session: Some(session) })
    }

    /// What a power cut at this instant leaves, as a directory.
    pub fn copy_durable(&self, to: &Path) -> Outcome {
        let tree = self.tree.lock().expect("no panic in the file system");
        tree.store(ROOT, to).map_err(|e| format!("{}: {e}", to.display()))
    }

    /// Unmounts, as soon as the last child of a killed server has let go of it.
    pub fn unmount(mut self) -> Outcome {
        let mut last = Ok(());
        wait_until(Duration::from_secs(10), || {
            last = disk::run("umount", &[disk::shown(&self.point)]);
            last.is_ok()
        });
        if last.is_ok() {
            drop(self.session.take());
        }
        last
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let _ = disk::run("umount", &["--lazy", disk::shown(&self.point)]);
            drop(session);
        }
    }
}

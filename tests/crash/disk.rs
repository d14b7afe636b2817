//! A disk that can lose its power: an ext4 file system in an image file, mounted through a loop device. A copy of the
//! image, taken while it is mounted and its writer is stopped, is what a power cut at that instant leaves behind.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::{Outcome, wait_until};

/// ext4 commits its journal by itself every five seconds, and with it what nobody synced. A test that is slow once would
/// then not see a missing sync, so that the interval is made far longer than any case.
const OPTIONS: &str = "loop,commit=300";

/// Runs a program that has to succeed.
pub fn run(program: &str, arguments: &[&str]) -> Outcome {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

pub fn shown(path: &Path) -> &str {
    path.to_str().expect("paths of the test are UTF-8")
}

/// Makes an image with an empty file system.
pub fn make(image: &Path, mebibytes: u32) -> Outcome {
    run("truncate", &["-s", &format!("{mebibytes}M"), shown(image)])?;
    run("mkfs.ext4", &["-q", "-F", shown(image)]).map_err(needed)
}

/// The image as it is at this instant.
pub fn copy(from: &Path, to: &Path) -> Outcome {
    run("cp", &["--sparse=always", "--reflink=auto", shown(from), shown(to)])
}

fn needed(error: String) -> String {
    format!(
        "The power-cut tests need root and a kernel with loop devices and ext4 (mkfs.ext4, mount, umount, cp): run them \
         as root on such a machine. What went wrong: {error}"
    )
}

/// A mounted image. Unmounts with its guard.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
}

impl Mount {
    pub fn new(image: &Path, point: &Path) -> Outcome<Self> {
        std::fs::create_dir_all(point).map_err(|e| e.to_string())?;
        run("mount", &["-t", "ext4", "-o", OPTIONS, shown(image), shown(point)]).map_err(needed)?;
        Ok(Self { point: point.to_owned() })
    }

    pub fn remount(&self, option: &str) -> Outcome {
        run("mount", &["-o", &format!("remount,{option}"), shown(&self.point)])
    }

    /// Unmounts, as soon as the last child of a killed server has let go of it.
    pub fn unmount(self) -> Outcome {
        let mut last = Ok(());
        wait_until(Duration::from_secs(10), || {
            last = run("umount", &[shown(&self.point)]);
            last.is_ok()
        });
        if last.is_ok() {
            std::mem::forget(self);
        }
        last
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A case that failed may have left something open: the mount goes now, its device with the last user.
        if run("umount", &[shown(&self.point)]).is_err() {
            let _ = run("umount", &["--lazy", shown(&self.point)]);
        }
    }
}

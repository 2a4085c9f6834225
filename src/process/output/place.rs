//! Where a log file lies: a directory that is held, reached by no link that a stranger could turn.
//!
//! Directories of logs often belong to the app's user, who could lead root anywhere by a link in the middle of the path.

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, fstat, mkdirat, openat, readlinkat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// Links that one path may lead through, as for the kernel.
const MOST_LINKS: usize = 40;
const DIRECTORY: Mode = Mode::from_raw_mode(0o750);
const FILE: Mode = Mode::from_raw_mode(0o640);

/// A file's directory and its name there.
pub(super) struct Place {
    dir: OwnedFd,
    name: OsString,
}

impl Place {
    /// With `make`, directories that are missing are made.
    ///
    /// # Errors
    /// As open(2) has it, or there is a link that is not followed.
    pub(super) fn of(path: &Path, make: bool) -> io::Result<Place> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        Ok(Place { dir: directory(path.parent().unwrap_or(Path::new("/")), make)?, name })
    }

    /// Opens the file to append to it, or makes it.
    pub(super) fn open(&self) -> io::Result<File> {
        // A link could lead to any file that we may write; a pipe without a reader must not hold us up.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let flags = flags | OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
        let opened = openat(&self.dir, &self.name, flags, FILE);
        let file = File::from(opened.map_err(|e| match e {
            Errno::LOOP => io::Error::other("it is a symbolic link, and those are not followed"),
            e => e.into(),
        })?);
        let (there, dir) = (fstat(&file)?, fstat(&self.dir)?);
        let is_file = FileType::from_raw_mode(there.st_mode) == FileType::RegularFile;
        if is_file && there.st_nlink > 1 && !is_trusted(dir.st_uid) {
            return Err(io::Error::other("it is a second name of a file, in a directory of another user"));
        }
        Ok(file)
    }

    pub(super) fn exists(&self, name: &OsStr) -> bool {
        statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        Ok(unlinkat(&self.dir, &self.name, AtFlags::empty())?)
    }

    /// Within the directory.
    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.dir, from, &self.dir, to)?)
    }
}

fn is_trusted(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

fn directory(path: &Path, mut make: bool) -> io::Result<OwnedFd> {
    let path_only = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = || openat(CWD, "/", path_only, Mode::empty());
    let mut at = root()?;
    let mut shown = PathBuf::from("/");
    let mut parts: VecDeque<OsString> = parts(path).collect();
    let mut links = 0;
    while let Some(part) = parts.pop_front() {
        let opened = match openat(&at, &part, path_only, Mode::empty()) {
            Err(Errno::NOENT) if make => {
                match mkdirat(&at, &part, DIRECTORY) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                openat(&at, &part, path_only, Mode::empty())?
            }
            other => other?,
        };
        shown.push(&part);
        let there = fstat(&opened)?;
        if FileType::from_raw_mode(there.st_mode) != FileType::Symlink {
            at = opened;
            continue;
        }
        if !is_trusted(there.st_uid) {
            let why = format!("{} is a symbolic link of user {}, and is not followed", shown.display(), there.st_uid);
            return Err(io::Error::other(why));
        }
        // As mkdir(2) has it: nothing is made where a link leads to nothing.
        make = false;
        links += 1;
        if links > MOST_LINKS {
            return Err(Errno::LOOP.into());
        }
        let to = PathBuf::from(OsString::from_vec(readlinkat(&opened, "", Vec::new())?.into_bytes()));
        if to.is_absolute() {
            (at, shown) = (root()?, PathBuf::from("/"));
        } else {
            shown.pop();
        }
        for part in self::parts(&to).collect::<Vec<_>>().into_iter().rev() {
            parts.push_front(part);
        }
    }
    Ok(at)
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::Temp;
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{chown, lchown, symlink};

    #[test]
    fn links_of_strangers_are_not_followed_and_others_are() {
        let temp = Temp::new();
        let base = fs::canonicalize(&temp.0).unwrap();
        let path = |name: &str| base.join(name);
        fs::create_dir(path("real")).unwrap();
        symlink("real", path("relative")).unwrap();
        symlink(path("relative"), path("absolute")).unwrap();
        symlink("loop", path("loop")).unwrap();
        for (n, dir) in ["real", "relative", "absolute", "real/../absolute"].into_iter().enumerate() {
            let file = path(dir).join(format!("{n}.log"));
            Place::of(&file, false).unwrap().open().unwrap().write_all(b"x").unwrap();
            assert!(path("real").join(format!("{n}.log")).exists(), "{dir}");
        }
        assert_eq!(Place::of(&path("new/deep/x.log"), false).err().unwrap().kind(), io::ErrorKind::NotFound);
        Place::of(&path("new/deep/x.log"), true).unwrap().open().unwrap();
        assert!(Place::of(&path("loop/x.log"), true).is_err());
        symlink("0.log", path("real/link.log")).unwrap();
        let refused = Place::of(&path("real/link.log"), true).unwrap().open().unwrap_err();
        assert!(refused.to_string().contains("symbolic link"), "{refused}");
        if rustix::process::geteuid().is_root() {
            lchown(path("relative"), Some(65_534), None).unwrap();
            let why = Place::of(&path("absolute/x.log"), true).err().unwrap().to_string();
            assert!(why.ends_with("relative is a symbolic link of user 65534, and is not followed"), "{why}");
            // In a directory of his own he could give any file of the same file system a second name.
            fs::hard_link(path("real/0.log"), path("real/second.log")).unwrap();
            Place::of(&path("real/second.log"), false).unwrap().open().unwrap();
            chown(path("real"), Some(65_534), None).unwrap();
            assert!(Place::of(&path("real/second.log"), false).unwrap().open().is_err());
            Place::of(&path("real/1.log"), false).unwrap().open().unwrap();
        }
    }
}

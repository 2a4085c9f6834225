//! Programs that run with our rights, and files that say what does.

use nix::unistd::{Gid, Group, Uid, User};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where a program really lies, when nobody but root and our own user could put another there: neither in its file nor
/// by any directory above it.
///
/// # Errors
/// Who else could, and what to do; or there is none.
pub(crate) fn trusted(program: &Path) -> Result<PathBuf, String> {
    let cannot = |path: &Path, e: io::Error| format!("cannot start {}: {e}", path.display());
    let real = fs::canonicalize(program).map_err(|e| cannot(program, e))?;
    match weakness(&real).map_err(|e| cannot(&real, e))? {
        Some(why) => Err(format!("{} is not run: {why}, so others could put another program there", real.display())),
        None => Ok(real),
    }
}

/// The same of a configuration: it names programs.
///
/// # Errors
/// As [`trusted`].
pub(crate) fn trusted_configuration(file: &Path) -> Result<(), String> {
    let cannot = |e: io::Error| format!("cannot read {}: {e}", file.display());
    let real = fs::canonicalize(file).map_err(cannot)?;
    match weakness(&real).map_err(cannot)? {
        Some(why) => {
            Err(format!("{} is not read: {why}, so others could name their own programs there", real.display()))
        }
        None => Ok(()),
    }
}

/// The same of the program of a process, which may have been removed since its start, or lie in a mount namespace of its
/// own: then its file alone tells.
///
/// # Errors
/// As [`trusted`].
pub(crate) fn trusted_process(pid: u32) -> Result<(), String> {
    let link = PathBuf::from(format!("/proc/{pid}/exe"));
    let cannot = |e: io::Error| format!("what process {pid} runs cannot be seen: {e}");
    let running = fs::metadata(&link).map_err(cannot)?;
    let path = fs::read_link(&link).map_err(cannot)?;
    let is_there =
        fs::symlink_metadata(&path).is_ok_and(|meta| (meta.dev(), meta.ino()) == (running.dev(), running.ino()));
    let why = match is_there {
        true => weakness(&path).map_err(cannot)?,
        false => objection(&running).map(|why| format!("its file {why}")),
    };
    why.map_or(Ok(()), |why| {
        Err(format!("it runs {}: {why}, so others could put another program there", path.display()))
    })
}

/// By what others could change a file whose real path this is.
fn weakness(real: &Path) -> io::Result<Option<String>> {
    for path in real.ancestors() {
        if let Some(why) = objection(&fs::symlink_metadata(path)?) {
            return Ok(Some(format!("{} {why}", path.display())));
        }
    }
    Ok(None)
}

/// What is against a file or a directory.
fn objection(meta: &fs::Metadata) -> Option<String> {
    let own = rustix::process::geteuid().as_raw();
    let (owner, mode) = (meta.uid(), meta.mode());
    if owner != 0 && owner != own {
        let root = if own == 0 { "" } else { ", nor to root" };
        return Some(format!("belongs to user {owner} and not to the proxy's user ({own}){root}"));
    }
    // In a directory with the sticky bit nobody moves what is another's.
    let is_sticky = meta.is_dir() && mode & 0o1000 != 0;
    let by_group = mode & 0o020 != 0 && !is_private(meta.gid(), owner);
    (!is_sticky && (by_group || mode & 0o002 != 0))
        .then(|| format!("can be written by others (mode {:o}; chmod go-w helps)", mode & 0o7777))
}

/// Whether a group is its user's alone, as many systems make one for each user.
fn is_private(group: u32, user: u32) -> bool {
    let group = Group::from_gid(Gid::from_raw(group)).ok().flatten();
    let user = User::from_uid(Uid::from_raw(user)).ok().flatten();
    group.zip(user).is_some_and(|(group, user)| {
        group.name == user.name && group.gid == user.gid && group.mem.iter().all(|member| *member == user.name)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::Temp;
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    #[test]
    fn only_what_nobody_else_can_change_is_run() {
        let temp = Temp::new();
        let dir = temp.0.join("bin");
        let program = dir.join("program");
        fs::create_dir(&dir).unwrap();
        fs::write(&program, "").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        set(&dir, 0o755);
        set(&program, 0o755);
        let real = trusted(&program).unwrap();
        assert!(real.is_absolute());
        // Where a link leads to counts, and that is what is run.
        symlink(&program, temp.0.join("link")).unwrap();
        assert_eq!(trusted(&temp.0.join("link")).unwrap(), real);
        for (path, mode, good) in [(&program, 0o757, false), (&dir, 0o757, false), (&dir, 0o1777, true)] {
            set(path, mode);
            assert_eq!(trusted(&program).is_ok(), good, "{} {mode:o}", path.display());
            set(path, 0o755);
        }
        assert!(trusted(&dir.join("missing")).unwrap_err().contains("No such file"));
        // A configuration names programs.
        assert_eq!(trusted_configuration(&program), Ok(()));
        set(&program, 0o646);
        let why = trusted_configuration(&program).unwrap_err();
        assert!(why.contains("is not read: ") && why.contains("mode 646"), "{why}");
        set(&program, 0o755);
        if rustix::process::geteuid().is_root() {
            for path in [&program, &dir] {
                chown(path, Some(65_534), None).unwrap();
                let why = trusted(&program).unwrap_err();
                assert!(why.contains("belongs to user 65534"), "{why}");
                chown(path, Some(0), None).unwrap();
            }
            chown(&dir, None, Some(65_534)).unwrap();
            set(&dir, 0o775);
            assert!(trusted(&program).unwrap_err().contains("can be written by others (mode 775"));
        }
    }

    #[test]
    fn what_a_process_runs_is_looked_at_though_its_file_is_gone() {
        let temp = Temp::new();
        let program = temp.0.join("sleep");
        fs::copy("/bin/sleep", &program).unwrap();
        let set = |mode| fs::set_permissions(&program, Permissions::from_mode(mode)).unwrap();
        set(0o755);
        let mut child = std::process::Command::new(&program).arg("60").spawn().unwrap();
        assert_eq!(trusted_process(child.id()), Ok(()));
        set(0o757);
        assert!(trusted_process(child.id()).unwrap_err().contains("mode 757"));
        fs::remove_file(&program).unwrap();
        assert!(trusted_process(child.id()).unwrap_err().contains("its file can be written by others"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(trusted_process(child.id()).unwrap_err().contains("cannot be seen"));
    }
}

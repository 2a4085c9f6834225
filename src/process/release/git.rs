//! Which commit a directory is checked out from: `git pull` changes it, whatever files it touches.

use std::io::Read;
use std::path::{Path, PathBuf};

/// Directories above one that are looked at.
const HIGHEST: usize = 12;
/// Bytes of a file that is read: `packed-refs` of a large repository fits.
const LARGEST: u64 = 8 * 1024 * 1024;
/// Of the number of a commit, for people.
const SHORT: usize = 10;

/// The beginning of the commit's number, if the directory is in a working copy.
pub(super) fn commit(directory: &Path) -> Option<String> {
    let git = directory.ancestors().take(HIGHEST).map(|above| above.join(".git")).find(|git| git.exists())?;
    let git = match git.is_dir() {
        true => git,
        // Of a worktree or a submodule.
        false => git.parent()?.join(text(&git)?.trim().strip_prefix("gitdir: ")?),
    };
    let head = text(&git.join("HEAD"))?;
    let Some(name) = head.trim().strip_prefix("ref: ") else { return number(&head) };
    let common = text(&git.join("commondir")).map_or(git.clone(), |path| git.join(path.trim()));
    let loose = |dir: &PathBuf| number(&text(&dir.join(name))?);
    loose(&git).or_else(|| loose(&common)).or_else(|| {
        let packed = text(&common.join("packed-refs"))?;
        let line = packed.lines().find(|line| line.split_once(' ').is_some_and(|(_, packed)| packed == name))?;
        number(line.split(' ').next()?)
    })
}

fn number(text: &str) -> Option<String> {
    let text = text.trim();
    let good = text.len() >= 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
    good.then(|| text.chars().take(SHORT).collect())
}

fn text(path: &Path) -> Option<String> {
    let file = std::fs::File::open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::Temp;
    use super::*;
    use std::fs;

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    #[test]
    fn head_is_a_number_a_loose_or_a_packed_branch() {
        let temp = Temp::new();
        let app = temp.0.join("services/web");
        let git = temp.0.join(".git");
        fs::create_dir_all(&app).unwrap();
        assert_eq!(commit(&app), None);
        fs::create_dir_all(git.join("refs/heads")).unwrap();
        fs::write(git.join("HEAD"), format!("{ONE}\n")).unwrap();
        assert_eq!(commit(&app).as_deref(), Some("1111111111"));
        fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        assert_eq!(commit(&app), None);
        fs::write(git.join("packed-refs"), format!("# pack-refs\n{ONE} refs/heads/other\n{TWO} refs/heads/main\n"))
            .unwrap();
        assert_eq!(commit(&app).as_deref(), Some("2222222222"));
        fs::write(git.join("refs/heads/main"), format!("{ONE}\n")).unwrap();
        assert_eq!(commit(&app).as_deref(), Some("1111111111"));
    }

    #[test]
    fn worktrees_have_their_head_elsewhere() {
        let temp = Temp::new();
        let git = temp.0.join("repo/.git");
        let own = git.join("worktrees/wt");
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(git.join("refs/heads")).unwrap();
        fs::create_dir_all(temp.0.join("wt")).unwrap();
        fs::write(temp.0.join("wt/.git"), format!("gitdir: {}\n", own.display())).unwrap();
        fs::write(own.join("HEAD"), "ref: refs/heads/topic\n").unwrap();
        fs::write(own.join("commondir"), "../..\n").unwrap();
        fs::write(git.join("refs/heads/topic"), TWO).unwrap();
        assert_eq!(commit(&temp.0.join("wt")).as_deref(), Some("2222222222"));
    }
}

//! Who may write in a directory, by name: an access control list (acl(5)), as Linux keeps it in an extended attribute.

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;

const ATTRIBUTE: &str = "system.posix_acl_access";
const VERSION: u32 = 2;
const ALL: u16 = 7;
const NONE: u16 = 0;
/// Kinds of entries, in the order in which they must stand.
const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHERS: u16 = 0x20;
const NO_ID: u32 = u32::MAX;

/// Lets the owner and these users read, write and search a directory, and nobody else.
pub(super) fn grant(dir: &File, users: &[u32]) -> Result<(), Errno> {
    fsetxattr(dir, ATTRIBUTE, &encode(users), XattrFlags::empty())
}

/// Whether a directory has a list at all.
pub(super) fn exists(dir: &File) -> bool {
    let mut list = [0_u8; 512];
    // A longer one is one, too.
    matches!(fgetxattr(dir, ATTRIBUTE, &mut list[..]), Ok(1..) | Err(Errno::RANGE))
}

fn encode(users: &[u32]) -> Vec<u8> {
    let users: BTreeSet<u32> = users.iter().copied().collect();
    let mut entries = vec![(OWNER, ALL, NO_ID)];
    entries.extend(users.into_iter().map(|user| (USER, ALL, user)));
    entries.extend([(GROUP, NONE, NO_ID), (MASK, ALL, NO_ID), (OTHERS, NONE, NO_ID)]);
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (kind, rights, id) in entries {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::tests::Temp;
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_list_is_granted_and_seen() {
        let temp = Temp::new();
        let dir = File::open(&temp.0).unwrap();
        assert!(!exists(&dir));
        match grant(&dir, &[1001, 65_534, 1001]) {
            Err(Errno::NOTSUP) => eprintln!("skipped: this file system has no access lists"),
            granted => {
                granted.unwrap();
                assert!(exists(&dir));
                // The group's bits of the mode are the mask now.
                assert_eq!(dir.metadata().unwrap().mode() & 0o777, 0o770);
                assert_eq!(encode(&[1001, 65_534]), encode(&[65_534, 1001, 1001]));
            }
        }
    }
}

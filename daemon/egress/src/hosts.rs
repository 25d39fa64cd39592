//! Names that this host's administrator wrote down.
//!
//! The resolver is asked for a name with a dot at its end, so that no search domain makes another name of it. Of `/etc/hosts` it
//! then finds nothing, because no name there ends so. What is written there counts before what a name server says, as it does for
//! every other program of the host.

use std::{
    fs::File,
    io::{self, Read as _},
    net::IpAddr,
    path::Path,
};

use paw_api::egress::HostName;

/// More of the file is not read.
const MOST: u64 = 1024 * 1024;

/// The addresses of a name in a file of this kind; none when there is no file.
pub(crate) fn addresses(file: &Path, name: &HostName) -> io::Result<Vec<IpAddr>> {
    let mut text = Vec::new();
    match File::open(file) {
        Ok(file) => file.take(MOST).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&text);
    let named = text.lines().filter_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        words
            .any(|word| word.eq_ignore_ascii_case(name.as_str()))
            .then_some(address)
    });
    Ok(named.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        let text = "# 10.0.0.9 db.example\n127.0.0.1 localhost\n10.0.0.1\tDB.example db # db2.example\n\
            fd00::1 db.example\nno-address db.example\n10.0.0.3 notdb.example db.example.org\n";
        std::fs::write(&file, text).unwrap();
        let found = addresses(&file, &name.parse().unwrap()).unwrap();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn a_name_has_the_addresses_of_every_line_that_names_it() {
        check("db.example", &["10.0.0.1", "fd00::1"]);
        check("db2.example", &[]);
        check("notdb.example", &["10.0.0.3"]);
        check("example", &[]);
    }

    #[test]
    fn without_a_file_no_name_is_in_it() {
        let name = "db.example".parse().unwrap();
        assert!(
            addresses(Path::new("/nonexistent/hosts"), &name)
                .unwrap()
                .is_empty()
        );
    }
}

//! The table of methods against the traits that declare them and the handlers that serve them.

use paw_api::methods::TABLE;

use crate::{
    found, none,
    tree::{File, files},
};

/// Methods that are served without a trait, because they describe the traits.
const BY_HAND: &[&str] = &["rpc.discover"];

struct Trait {
    name: String,
    methods: Vec<String>,
}

/// The traits that jsonrpsee makes servers of, with the wire names of their methods.
fn traits(files: &[File]) -> Vec<Trait> {
    let api = files
        .iter()
        .filter(|file| file.path.starts_with("daemon/api/src/"));
    api.flat_map(|file| file.text.split("#[rpc(").skip(1))
        .map(|rest| {
            // Formatting breaks long attributes and signatures over lines; only the texts in them matter here.
            let namespace = value(rest, "namespace = \"");
            let name = rest
                .split("pub trait ")
                .nth(1)
                .unwrap_or_default()
                .split([' ', '{', ':'])
                .next()
                .unwrap_or_default()
                .to_owned();
            let names = |kind: &str| -> Vec<String> {
                rest.split(kind)
                    .skip(1)
                    .map(|method| value(method, "name = \""))
                    .collect()
            };
            let ends = rest
                .split("#[subscription(")
                .skip(1)
                .map(|method| value(method, "unsubscribe = \""))
                .filter(|end| !end.is_empty());
            let methods = names("#[method(")
                .into_iter()
                .chain(names("#[subscription("))
                .chain(ends);
            Trait {
                name,
                methods: methods
                    .map(|method| format!("{namespace}.{method}"))
                    .collect(),
            }
        })
        .collect()
}

fn value(text: &str, key: &str) -> String {
    text.split(key)
        .nth(1)
        .unwrap_or_default()
        .split('"')
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn unserved(table: &[&str], files: &[File]) -> Vec<String> {
    let traits = traits(files);
    let served = |name: &str| {
        let wanted = format!("impl {name}Server for ");
        files
            .iter()
            .any(|file| file.path.starts_with("daemon/src/rpc") && file.text.contains(&wanted))
    };
    let declared = |method: &str| {
        traits
            .iter()
            .any(|one| one.methods.iter().any(|name| name == method))
            || BY_HAND.contains(&method)
    };
    let methods = table
        .iter()
        .filter(|method| !declared(method))
        .map(|method| format!("{method} is in the table and in no trait"));
    let strangers = traits
        .iter()
        .flat_map(|one| &one.methods)
        .filter(|method| !table.contains(&method.as_str()));
    let strangers = strangers
        .map(|method| format!("{method} is declared and not in the table; nobody could call it"));
    let handlers = traits
        .iter()
        .filter(|one| !served(&one.name))
        .map(|one| format!("{} has no handler in daemon/src/rpc", one.name));
    methods.chain(strangers).chain(handlers).collect()
}

#[test]
fn every_method_of_the_table_has_a_handler() {
    let api = "#[rpc(server, namespace = \"a\", namespace_separator = \".\")]\npub trait ARpc {\n#[method(name = \"x\")]\nfn x();\n\
               #[subscription(name = \"y\" => \"n\", unsubscribe = \"z\", item = I)]\nfn y();\n}\n\
               #[rpc(server, namespace = \"b\")]\npub trait BRpc { #[method(name = \"q\")] fn q(); }";
    let tree = [
        File::example("daemon/api/src/a.rs", api),
        File::example("daemon/src/rpc/a.rs", "impl ARpcServer for A {}"),
    ];
    // b.q is not in the table, a.more in no trait, BRpc not served.
    found(unserved(&["a.x", "a.y", "a.z", "a.more"], &tree), 3);
    let table: Vec<&str> = TABLE.iter().map(|method| method.name).collect();
    none(unserved(&table, files()));
}

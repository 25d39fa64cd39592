//! What the JSON documents of an OCI image say, checked: which manifest is for this machine, its layers, its configuration.
//!
//! Pure: bytes in, values out. Where the bytes come from, and that they have the digest by which they were asked for, is the
//! business of [`crate::layout`].

use paw_launch::image::Suggested;
use paw_policy::Digest;
use serde::{Deserialize, de::DeserializeOwned};

/// The longest of these documents, in bytes.
pub(crate) const MAX_DOCUMENT: u64 = 1024 * 1024;

/// The most layers of an image.
const MAX_LAYERS: usize = 128;

/// The most entries of an index.
const MAX_MANIFESTS: usize = 256;

/// Bytes of what a configuration suggests, all of it as JSON; it is recorded, and shown in lists.
const MAX_SUGGESTED: usize = 4096;

/// The most characters of a document's text in an error.
const MAX_SHOWN: usize = 100;

/// Why a document is not used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OciError {
    #[error("{what} is not the JSON that it should be: {why}")]
    Json { what: &'static str, why: String },
    #[error("{what} has the schema version {version}; 2 is understood")]
    Schema { what: &'static str, version: u64 },
    #[error("the digest {0:?} is not a sha256; no other algorithm is used")]
    Digest(String),
    #[error("{what} has the media type {kind:?}, which is not understood")]
    MediaType { what: &'static str, kind: String },
    #[error("{what}: {count}; at most {most} are taken")]
    TooMany {
        what: &'static str,
        count: usize,
        most: usize,
    },
    #[error("the layout has no image for {wanted}; it has {has}")]
    Platform { wanted: String, has: String },
    #[error("the layout holds {0} images for this machine; give one with a single image")]
    Several(usize),
    #[error("the configuration names {config} layers and the manifest {manifest}")]
    Layers { config: usize, manifest: usize },
    #[error("what the configuration suggests is longer than {MAX_SUGGESTED} bytes")]
    Suggested,
}

/// A blob that a document names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// Where an index leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Index(Blob),
    Manifest(Blob),
}

/// A manifest, checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Blob,
    pub(crate) layers: Vec<(Blob, Packing)>,
}

/// A configuration, checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Digests of the layers as plain archives, the lowest first.
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) suggested: Suggested,
}

// The documents may hold more than is read here: the specification says that what is not known is passed over.

#[derive(Deserialize)]
struct RawDescriptor {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct RawIndex {
    #[serde(rename = "schemaVersion")]
    schema_version: u64,
    manifests: Vec<RawDescriptor>,
}

#[derive(Deserialize)]
struct RawManifest {
    #[serde(rename = "schemaVersion")]
    schema_version: u64,
    config: RawDescriptor,
    layers: Vec<RawDescriptor>,
}

#[derive(Deserialize)]
struct RawConfig {
    architecture: String,
    os: String,
    created: Option<String>,
    rootfs: RawRoot,
    config: Option<RawSuggested>,
}

#[derive(Deserialize)]
struct RawRoot {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawSuggested {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
}

const INDEX: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFEST: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const CONFIG: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
const LAYERS: [(&str, Packing); 5] = [
    ("application/vnd.oci.image.layer.v1.tar", Packing::Plain),
    ("application/vnd.oci.image.layer.v1.tar+gzip", Packing::Gzip),
    ("application/vnd.oci.image.layer.v1.tar+zstd", Packing::Zstd),
    (
        "application/vnd.docker.image.rootfs.diff.tar",
        Packing::Plain,
    ),
    (
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        Packing::Gzip,
    ),
];

/// The architecture of this machine, in the words of OCI.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The beginning of what somebody else wrote, safe to show.
pub(crate) fn brief(text: &str) -> String {
    let plain = |character: char| {
        if character.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            character
        }
    };
    text.chars().take(MAX_SHOWN).map(plain).collect()
}

fn read<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, OciError> {
    serde_json::from_slice(bytes).map_err(|error| OciError::Json {
        what,
        why: brief(&error.to_string()),
    })
}

/// A digest as OCI writes it.
pub(crate) fn digest(text: &str) -> Result<Digest, OciError> {
    let bad = || OciError::Digest(brief(text));
    let hex = text.strip_prefix("sha256:").ok_or_else(bad)?;
    if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(bad());
    }
    hex.parse().map_err(|_| bad())
}

impl RawDescriptor {
    fn blob(&self) -> Result<Blob, OciError> {
        Ok(Blob {
            digest: digest(&self.digest)?,
            size: self.size,
        })
    }

    fn is(&self, kinds: &[&str]) -> bool {
        kinds.contains(&self.media_type.as_str())
    }
}

/// The one entry of an index that is for this machine.
pub(crate) fn choose(bytes: &[u8], architecture: &str) -> Result<Next, OciError> {
    let what = "the index";
    let index: RawIndex = read(what, bytes)?;
    if index.schema_version != 2 {
        return Err(OciError::Schema {
            what,
            version: index.schema_version,
        });
    }
    if index.manifests.len() > MAX_MANIFESTS {
        return Err(OciError::TooMany {
            what: "entries of the index",
            count: index.manifests.len(),
            most: MAX_MANIFESTS,
        });
    }
    // An entry without a platform may be for any; what it is for is then said by its configuration.
    let fitting: Vec<&RawDescriptor> = index
        .manifests
        .iter()
        .filter(|entry| {
            entry.platform.as_ref().is_none_or(|platform| {
                platform.os == "linux" && platform.architecture == architecture
            })
        })
        .collect();
    match fitting[..] {
        [entry] if entry.is(&INDEX) => Ok(Next::Index(entry.blob()?)),
        [entry] if entry.is(&MANIFEST) => Ok(Next::Manifest(entry.blob()?)),
        [entry] => Err(OciError::MediaType {
            what: "the entry of the index",
            kind: brief(&entry.media_type),
        }),
        [] => {
            let has: Vec<String> = index
                .manifests
                .iter()
                .filter_map(|entry| entry.platform.as_ref())
                .map(|platform| brief(&format!("{}/{}", platform.os, platform.architecture)))
                .take(8)
                .collect();
            Err(OciError::Platform {
                wanted: format!("linux/{architecture}"),
                has: if has.is_empty() {
                    "none".to_owned()
                } else {
                    has.join(", ")
                },
            })
        }
        [_, ..] => Err(OciError::Several(fitting.len())),
    }
}

/// A manifest.
pub(crate) fn manifest(bytes: &[u8]) -> Result<Manifest, OciError> {
    let what = "the manifest";
    let raw: RawManifest = read(what, bytes)?;
    if raw.schema_version != 2 {
        return Err(OciError::Schema {
            what,
            version: raw.schema_version,
        });
    }
    if raw.layers.len() > MAX_LAYERS {
        return Err(OciError::TooMany {
            what: "layers",
            count: raw.layers.len(),
            most: MAX_LAYERS,
        });
    }
    let kind = |what, descriptor: &RawDescriptor| OciError::MediaType {
        what,
        kind: brief(&descriptor.media_type),
    };
    if !raw.config.is(&CONFIG) {
        return Err(kind("the configuration", &raw.config));
    }
    let layers = raw.layers.iter().map(|layer| {
        let packing = LAYERS
            .iter()
            .find(|(name, _)| *name == layer.media_type)
            .map(|(_, packing)| *packing)
            .ok_or_else(|| kind("a layer", layer))?;
        Ok((layer.blob()?, packing))
    });
    Ok(Manifest {
        config: raw.config.blob()?,
        layers: layers.collect::<Result<_, _>>()?,
    })
}

/// The configuration of an image with this many layers.
pub(crate) fn config(bytes: &[u8], layers: usize, architecture: &str) -> Result<Config, OciError> {
    let raw: RawConfig = read("the configuration", bytes)?;
    if raw.os != "linux" || raw.architecture != architecture {
        return Err(OciError::Platform {
            wanted: format!("linux/{architecture}"),
            has: brief(&format!("{}/{}", raw.os, raw.architecture)),
        });
    }
    if raw.rootfs.kind != "layers" {
        return Err(OciError::MediaType {
            what: "the root in the configuration",
            kind: brief(&raw.rootfs.kind),
        });
    }
    if raw.rootfs.diff_ids.len() != layers {
        return Err(OciError::Layers {
            config: raw.rootfs.diff_ids.len(),
            manifest: layers,
        });
    }
    let diff_ids = raw.rootfs.diff_ids.iter().map(|id| digest(id));
    let said = raw.config.unwrap_or_default();
    let mut command = said.entrypoint.unwrap_or_default();
    command.extend(said.cmd.unwrap_or_default());
    let suggested = Suggested {
        created: raw.created,
        env: said.env.unwrap_or_default(),
        command,
        workdir: said.working_dir.filter(|dir| !dir.is_empty()),
        user: said.user.filter(|user| !user.is_empty()),
    };
    let bytes = serde_json::to_vec(&suggested).map_or(usize::MAX, |json| json.len());
    if bytes > MAX_SUGGESTED {
        return Err(OciError::Suggested);
    }
    Ok(Config {
        diff_ids: diff_ids.collect::<Result<_, _>>()?,
        suggested,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ONE: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

    fn entry(platform: Option<(&str, &str)>) -> Value {
        let mut entry = json!({"mediaType": MANIFEST[0], "digest": ONE, "size": 7});
        if let Some((os, architecture)) = platform {
            entry["platform"] = json!({"os": os, "architecture": architecture});
        }
        entry
    }

    fn chosen(entries: &[Value]) -> Result<Next, OciError> {
        let index = json!({"schemaVersion": 2, "manifests": entries, "annotations": {"more": "is passed over"}});
        choose(index.to_string().as_bytes(), "amd64")
    }

    #[test]
    fn the_entry_for_this_machine_is_chosen() {
        let entries = [
            entry(Some(("linux", "arm64"))),
            entry(Some(("unknown", "unknown"))),
            entry(Some(("linux", "amd64"))),
            entry(Some(("windows", "amd64"))),
        ];
        assert!(matches!(chosen(&entries), Ok(Next::Manifest(_))));
        assert!(matches!(chosen(&[entry(None)]), Ok(Next::Manifest(_))));
        assert!(matches!(
            chosen(&entries[..2]),
            Err(OciError::Platform { .. })
        ));
        assert_eq!(
            chosen(&[entry(None), entry(None)]),
            Err(OciError::Several(2))
        );
    }

    #[test]
    fn no_digest_but_sha256_is_used() {
        for bad in [
            "sha512:1111",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "sha256:11",
            &ONE.to_uppercase(),
            "sha256:../../etc/passwd",
            "",
        ] {
            assert!(matches!(digest(bad), Err(OciError::Digest(_))), "{bad}");
        }
        assert!(digest(ONE).is_ok());
    }

    #[test]
    fn layer_of_an_unknown_kind_is_refused_by_name() {
        let with = |kind: &str| {
            let json = json!({"schemaVersion": 2, "config": {"mediaType": CONFIG[0], "digest": ONE, "size": 1},
                "layers": [{"mediaType": kind, "digest": ONE, "size": 1}]});
            manifest(json.to_string().as_bytes())
        };
        assert!(with(LAYERS[2].0).is_ok());
        let refused = with("application/vnd.oci.image.layer.nondistributable.v1.tar").unwrap_err();
        assert!(
            refused.to_string().contains("nondistributable"),
            "{refused}"
        );
    }

    #[test]
    fn more_layers_than_any_image_has_are_refused() {
        let layers =
            vec![json!({"mediaType": LAYERS[0].0, "digest": ONE, "size": 1}); MAX_LAYERS + 1];
        let json = json!({"schemaVersion": 2, "config": {"mediaType": CONFIG[0], "digest": ONE, "size": 1}, "layers": layers});
        assert!(matches!(
            manifest(json.to_string().as_bytes()),
            Err(OciError::TooMany { .. })
        ));
    }

    #[test]
    fn configuration_has_to_fit_the_manifest_and_the_machine() {
        let with = |architecture: &str, ids: &[&str], env: &str| {
            let json = json!({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids},
                "config": {"Env": [env], "Entrypoint": ["/bin/sh"], "Cmd": ["-c", "true"], "WorkingDir": "/srv", "User": ""}});
            config(json.to_string().as_bytes(), 1, "amd64")
        };
        let good = with("amd64", &[ONE], "A=1").unwrap();
        assert_eq!(good.suggested.command, ["/bin/sh", "-c", "true"]);
        assert_eq!(good.suggested.user, None);
        assert!(matches!(
            with("arm64", &[ONE], ""),
            Err(OciError::Platform { .. })
        ));
        assert!(matches!(
            with("amd64", &[], ""),
            Err(OciError::Layers { .. })
        ));
        assert!(matches!(
            with("amd64", &["sha1:1"], ""),
            Err(OciError::Digest(_))
        ));
        assert_eq!(
            with("amd64", &[ONE], &"x".repeat(5000)),
            Err(OciError::Suggested)
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "{",
            "[]",
            "{\"schemaVersion\":1,\"manifests\":[]}",
            "null",
        ] {
            assert!(choose(bad.as_bytes(), "amd64").is_err());
            assert!(manifest(bad.as_bytes()).is_err());
            assert!(config(bad.as_bytes(), 0, "amd64").is_err());
        }
    }
}

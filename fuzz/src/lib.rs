//! One target for each place where foreign bytes come in.
//!
//! A target takes any bytes and may not panic, hang or grow; what else must hold is asserted in it. Its seeds are made by the types that
//! are read, so they are never of an older form. `fuzz.rs` is the program; `fuzz/run` builds it with coverage of our own code and runs
//! targets one after the other.
//!
//! There is no target for an update of a bridge: there are no bridges yet.

mod disk;
mod egress;
mod models;
mod processes;
mod socket;
mod words;

/// Something that reads foreign bytes.
pub struct Target {
    /// How it is called.
    pub name: &'static str,
    /// Whose bytes they are.
    pub what: &'static str,
    /// Reads them.
    pub run: fn(&[u8]),
    /// What to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

const fn target(
    name: &'static str,
    what: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
) -> Target {
    Target {
        name,
        what,
        run,
        seeds,
    }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target(
        "rpc",
        "what callers say on the control socket, in its three framings",
        socket::run,
        socket::seeds,
    ),
    target(
        "launcher",
        "packets between pawd and the launcher, and plans against the ceilings",
        processes::launcher,
        processes::launcher_seeds,
    ),
    target(
        "sandbox",
        "frames that come out of a sandbox",
        processes::sandbox,
        processes::sandbox_seeds,
    ),
    target(
        "resume",
        "what a sandbox says to a pawd that goes on with it",
        processes::resume,
        processes::resume_seeds,
    ),
    target(
        "shim",
        "answers and events of a containerd shim",
        processes::shim,
        processes::shim_seeds,
    ),
    target(
        "audit_request",
        "what pawd says to the writer of the audit log",
        processes::audit_request,
        processes::audit_request_seeds,
    ),
    target(
        "audit_log",
        "records of an audit log, read and verified",
        disk::audit_log,
        disk::audit_log_seeds,
    ),
    target(
        "audit_proof",
        "proofs that a record is in an audit log",
        disk::audit_proof,
        disk::audit_proof_seeds,
    ),
    target(
        "store",
        "records in the store, and notes beside it",
        disk::store,
        disk::store_seeds,
    ),
    target(
        "vault",
        "the header, the rows and the keys of a vault",
        disk::vault,
        disk::vault_seeds,
    ),
    target(
        "image_documents",
        "the documents of an OCI image, and what a sandbox's root is made from",
        disk::image_documents,
        disk::image_documents_seeds,
    ),
    target(
        "image_archive",
        "archives of images: layers, whole roots, layouts",
        disk::image_archive,
        disk::image_archive_seeds,
    ),
    target("config", "pawd.toml", words::config, words::config_seeds),
    target(
        "ceilings",
        "launcher.toml and egress.toml",
        words::ceilings,
        words::ceilings_seeds,
    ),
    target(
        "policy",
        "rules of policy, and cases that are judged by them",
        words::policy,
        words::policy_seeds,
    ),
    target(
        "manifest",
        "skill.toml and SKILL.md of a skill",
        words::manifest,
        words::manifest_seeds,
    ),
    target(
        "schema",
        "JSON schemas of skills and callers, and what is held against them",
        words::schema,
        words::schema_seeds,
    ),
    target(
        "guard",
        "texts that are screened, and weights",
        words::guard,
        words::guard_seeds,
    ),
    target(
        "mcp",
        "messages of a skill's program",
        models::mcp,
        models::mcp_seeds,
    ),
    target(
        "model_text",
        "what a model writes that may be a call, and pictures",
        models::text,
        models::text_seeds,
    ),
    target(
        "ollama",
        "answers of an Ollama",
        models::ollama,
        models::ollama_seeds,
    ),
    target(
        "openai",
        "answers of OpenAI",
        models::openai,
        models::openai_seeds,
    ),
    target(
        "compatible",
        "answers of a server that speaks like OpenAI's",
        models::compatible,
        models::compatible_seeds,
    ),
    target(
        "mistral",
        "answers of Mistral",
        models::mistral,
        models::mistral_seeds,
    ),
    target(
        "anthropic",
        "answers of Anthropic",
        models::anthropic,
        models::anthropic_seeds,
    ),
    target(
        "gemini",
        "answers of Gemini",
        models::gemini,
        models::gemini_seeds,
    ),
    target(
        "egress_request",
        "requests to the proxy of a sandbox, and rules of ways out",
        egress::request,
        egress::request_seeds,
    ),
    target(
        "egress_hello",
        "the beginning of a connection that is to be encrypted",
        egress::hello,
        egress::hello_seeds,
    ),
    target(
        "egress_witness",
        "where checkpoints of the audit log go, and what pawd hands on of them",
        egress::witness,
        egress::witness_seeds,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Also what keeps the targets and their seeds alive between two runs of the fuzzer.
    #[test]
    fn every_target_reads_its_seeds_and_pieces_of_them() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{} has no seed", target.name);
            (target.run)(b"");
            for seed in seeds {
                (target.run)(&seed);
                (target.run)(&seed[..seed.len() / 2]);
                (target.run)(&seed[seed.len() / 2..]);
            }
        }
    }

    #[test]
    fn names_of_targets_are_their_own() {
        let mut names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TARGETS.len());
    }
}

//! What waits in workspaces and what can be taken back, as the launcher without walls has it: the decisions are real, and there are no files.

use paw_launch::{
    request::SandboxId,
    workspace::{
        Answer, Change, Committed, Diff, Kind, Listing, Refused, Thing, Waiting, Why,
        WorkspaceRequest,
    },
};
use paw_policy::{Digest, Name};

/// All of them, the oldest first.
#[derive(Default)]
pub(crate) struct Layers(Vec<Layer>);

struct Layer {
    agent: Name,
    id: SandboxId,
    owner: u32,
    committed: bool,
}

impl Layer {
    fn waiting(&self) -> Waiting {
        Waiting {
            layer: self.id.clone(),
            owner: Some(self.owner),
            at_ms: 1,
            changes: 1,
            bytes: 1,
        }
    }

    fn digest(&self) -> Digest {
        Digest::of(self.id.as_str().as_bytes())
    }
}

impl Layers {
    /// One that waits in the workspace of this agent, with a file `note.txt`; its digest.
    pub(crate) fn left(&mut self, agent: &Name, id: &SandboxId, owner: u32) -> Digest {
        let layer = Layer {
            agent: agent.clone(),
            id: id.clone(),
            owner,
            committed: false,
        };
        let digest = layer.digest();
        self.0.push(layer);
        digest
    }

    /// What a launcher says to what is asked about them.
    pub(crate) fn answer(&mut self, about: &WorkspaceRequest) -> Answer {
        match about {
            WorkspaceRequest::Names => {
                let mut names: Vec<Name> = self.0.iter().map(|it| it.agent.clone()).collect();
                names.dedup();
                Answer::Names { names }
            }
            WorkspaceRequest::List { name } => {
                let of = |committed| {
                    let all = self.0.iter().filter(|it| it.agent == *name);
                    let these = all.filter(|it| it.committed == committed);
                    these.map(Layer::waiting).collect()
                };
                Answer::List(Listing {
                    files: 0,
                    bytes: 0,
                    pending: of(false),
                    commits: of(true),
                })
            }
            WorkspaceRequest::Diff { id, .. } => self
                .at(id, false)
                .map_or_else(refused, |at| Answer::Diff(Box::new(diff(&self.0[at])))),
            WorkspaceRequest::Commit { id, digest } => match self.at(id, false) {
                Ok(at) if self.0[at].digest() == *digest => {
                    self.0[at].committed = true;
                    Answer::Committed(Committed {
                        layer: id.clone(),
                        changes: 1,
                        files: 1,
                        bytes: 1,
                    })
                }
                Ok(_) => refused(Why::Changed),
                Err(why) => refused(why),
            },
            WorkspaceRequest::Discard { id } => self.at(id, false).map_or_else(refused, |at| {
                self.0.remove(at);
                Answer::Discarded { changes: 1 }
            }),
            WorkspaceRequest::Undo { id, .. } => self.at(id, true).map_or_else(refused, |at| {
                self.0.remove(at);
                Answer::Undone {
                    layers: vec![id.clone()],
                }
            }),
            WorkspaceRequest::Settle { .. } => refused(Why::NotFound),
        }
    }

    fn at(&self, id: &SandboxId, committed: bool) -> Result<usize, Why> {
        let mut all = self.0.iter();
        let at = all.position(|it| it.id == *id && it.committed == committed);
        at.ok_or(Why::NotFound)
    }
}

fn diff(layer: &Layer) -> Diff {
    Diff {
        layer: layer.id.clone(),
        owner: Some(layer.owner),
        at_ms: 1,
        digest: layer.digest(),
        total: 1,
        changes: vec![Change {
            path: "note.txt".into(),
            old: None,
            new: Some(Thing {
                kind: Kind::File,
                mode: 0o600,
                size: 1,
                digest: None,
                target: None,
            }),
            text: None,
            note: None,
        }],
        next: None,
        left_out: Vec::new(),
        conflicts: Vec::new(),
    }
}

fn refused(why: Why) -> Answer {
    Answer::Refused(Refused {
        why,
        message: "it was not done".into(),
        remedy: "look at what is there".into(),
    })
}

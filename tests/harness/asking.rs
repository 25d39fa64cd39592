//! What an agent is asked, of which a test says what matters to it.

use jsonrpsee::{
    async_client::Client,
    core::client::{Error as CallError, Subscription},
};
use paw_api::provider::{ChatEvent, ChatRpcClient};
use serde_json::Value;

/// What `chat.send` is asked with. What is not said is left out, as a caller would.
#[derive(Debug, Clone, Default)]
pub struct Asking {
    text: String,
    agent: Option<String>,
    session: Option<String>,
    provider: Option<String>,
    model: Option<String>,
    local_only: Option<bool>,
    route: Option<String>,
    schema: Option<Value>,
    images: Option<Vec<String>>,
}

/// One way to say each member.
macro_rules! members {
    ($($name:ident: $kind:ty),*) => {
        $(
            /// With this; nothing is as if it were not said.
            #[must_use]
            pub fn $name(mut self, $name: impl Into<Option<$kind>>) -> Self {
                self.$name = $name.into();
                self
            }
        )*
    };
}

impl Asking {
    /// This text and nothing else.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            text,
            ..Self::default()
        }
    }

    members!(agent: String, session: String, provider: String, model: String, local_only: bool, route: String, schema: Value, images: Vec<String>);

    /// Asks it.
    ///
    /// # Errors
    /// The refusal of pawd.
    pub async fn ask(self, client: &Client) -> Result<Subscription<ChatEvent>, CallError> {
        client
            .send(
                self.text,
                self.agent,
                self.session,
                self.provider,
                self.model,
                self.local_only,
                self.route,
                self.schema,
                self.images,
            )
            .await
    }
}

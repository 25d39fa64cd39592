//! What a tool answered, as text: whatever is no text is named in brackets, with its length.

use rmcp::model::{ContentBlock, ResourceContents};

use super::mcp::bounded;

pub(super) fn text_of(content: &[ContentBlock]) -> String {
    let parts = content.iter().map(|block| match block {
        ContentBlock::Text(text) => text.text.clone(),
        ContentBlock::Image(image) => format!(
            "[image, {}, {} bytes of base64]",
            bounded(&image.mime_type),
            image.data.len()
        ),
        ContentBlock::Audio(audio) => format!(
            "[audio, {}, {} bytes of base64]",
            bounded(&audio.mime_type),
            audio.data.len()
        ),
        ContentBlock::Resource(embedded) => match &embedded.resource {
            ResourceContents::TextResourceContents { text, .. } => text.clone(),
            ResourceContents::BlobResourceContents { uri, blob, .. } => {
                format!(
                    "[resource {}, {} bytes of base64]",
                    bounded(uri),
                    blob.len()
                )
            }
            _ => "[resource]".to_owned(),
        },
        ContentBlock::ResourceLink(link) => format!("[link {}]", bounded(&link.uri)),
        _ => "[content of an unknown kind]".to_owned(),
    });
    parts.collect::<Vec<_>>().join("\n")
}

//! A model that answers at once: a server of OpenAI's streamed chat completions on this host, which thinks nothing and says `a` as often
//! as it is told to. Measured through pawd, what is left is pawd's own time.

use std::{io, net::SocketAddr, rc::Rc};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::spawn_local,
};

/// The longest request that is read, in bytes.
const MAX_BODY: u64 = 4 << 20;

/// What is answered, in the pieces in which it is sent.
pub(super) struct Answer(Vec<Vec<u8>>);

impl Answer {
    /// An answer of so many tokens, each sent by itself.
    pub(super) fn of(tokens: u16) -> Self {
        let event = |data: &str| chunk(&format!("data: {data}\n\n"));
        let token = event(
            r#"{"object":"chat.completion.chunk","model":"stub","choices":[{"index":0,"delta":{"content":"a"}}]}"#,
        );
        let mut pieces = vec![token; usize::from(tokens)];
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        match pieces.first_mut() {
            Some(first) => drop(first.splice(0..0, head.iter().copied())),
            None => pieces.push(head.to_vec()),
        }
        let stop = r#"{"object":"chat.completion.chunk","model":"stub","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
        let counts = format!(
            r#"{{"object":"chat.completion.chunk","model":"stub","choices":[],"usage":{{"prompt_tokens":9,"completion_tokens":{tokens}}}}}"#
        );
        let mut end = event(stop);
        end.extend(event(&counts));
        end.extend(event("[DONE]"));
        end.extend(b"0\r\n\r\n");
        pieces.push(end);
        Self(pieces)
    }
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

/// Answers whoever connects, until it is dropped.
pub(super) async fn serve(listener: TcpListener, answer: Rc<Answer>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: whoever waits finds a place once another one is closed.
            tokio::task::yield_now().await;
            continue;
        };
        let answer = Rc::clone(&answer);
        // One that breaks off is an error of whoever asked.
        spawn_local(async move { drop(connection(stream, &answer).await) });
    }
}

async fn connection(stream: TcpStream, answer: &Answer) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(line) = request(&mut stream).await? {
        if line.starts_with("GET ") {
            // Whether it is there is asked besides.
            let models = r#"{"object":"list","data":[{"id":"stub","object":"model"}]}"#;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
            let whole = format!("{head} {}\r\n\r\n{models}", models.len());
            stream.write_all(whole.as_bytes()).await?;
            continue;
        }
        for piece in &answer.0 {
            stream.write_all(piece).await?;
        }
    }
    Ok(())
}

/// The first line of the next request, which is read to its end; none when there is no more.
async fn request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut first = String::new();
    if stream.read_line(&mut first).await? == 0 {
        return Ok(None);
    }
    let mut length = 0_u64;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    if length > MAX_BODY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = stream.take(length);
    tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
    Ok(Some(first))
}

/// Asks once over a connection that stays open, as pawd would, and reads the answer to its end.
///
/// # Errors
/// When the connection breaks.
pub(super) async fn ask(stream: &mut BufReader<TcpStream>, at: SocketAddr) -> io::Result<()> {
    const BODY: &str =
        r#"{"model":"stub","messages":[{"role":"user","content":"hello"}],"stream":true}"#;
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: {at}\r\ncontent-length:");
    let whole = format!("{head} {}\r\n\r\n{BODY}", BODY.len());
    stream.write_all(whole.as_bytes()).await?;
    let mut line = Vec::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == b"0\r\n" {
            stream.read_until(b'\n', &mut line).await?;
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_is_a_piece_and_the_end_is_one_more() {
        for tokens in [0, 1, 16] {
            let Answer(pieces) = Answer::of(tokens);
            let whole = String::from_utf8(pieces.concat()).unwrap();
            assert_eq!(pieces.len(), usize::from(tokens.max(1)) + 1);
            assert_eq!(
                whole.matches("\"content\":\"a\"").count(),
                usize::from(tokens)
            );
            assert!(whole.starts_with("HTTP/1.1 200 OK\r\n") && whole.ends_with("\r\n0\r\n\r\n"));
        }
    }
}

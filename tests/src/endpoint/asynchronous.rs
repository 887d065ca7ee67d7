//! Both ends once more, on tokio: non-blocking calls, readiness from epoll, many connections on few threads.

use std::io;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::bulk::{BLOCK, Checksum, Pattern};
use super::client::PING;
use super::{ClientBehaviour, Connect, Serve, ServerBehaviour, outcome, print, server, unsupported};

/// As `server::run`.
pub(super) fn serve(serve: Serve) -> Result<()> {
    let listener = server::listen(&serve)?;
    listener.set_nonblocking(true).context("make the listener non-blocking")?;
    runtime()?.block_on(async {
        let listener = TcpListener::from_std(listener).context("give the listener to tokio")?;
        let serve = Arc::new(serve);
        let mut serving = Vec::new();
        for _ in 0..serve.connections {
            let (stream, _) = listener.accept().await.context("accept")?;
            let serve = Arc::clone(&serve);
            serving.push(tokio::spawn(async move {
                let ends = ends(&stream);
                outcome(&ends, answer(stream, &serve).await)
            }));
        }
        let mut outcomes = Vec::new();
        for served in serving {
            outcomes.push(served.await.map_err(|_panic| anyhow!("a server task panicked"))?);
        }
        print(&Value::Array(outcomes));
        Ok(())
    })
}

/// Opens `connections` at the same time, each of them `times` after each other, and prints a list of outcomes.
pub(super) fn connect(connect: Connect) -> Result<()> {
    runtime()?.block_on(async {
        let connect = Arc::new(connect);
        let mut talking = JoinSet::new();
        for _ in 0..connect.connections {
            let connect = Arc::clone(&connect);
            talking.spawn(async move {
                let mut outcomes = Vec::new();
                for _ in 0..connect.times {
                    outcomes.push(talk(Arc::clone(&connect)).await);
                }
                outcomes
            });
        }
        print(&Value::Array(talking.join_all().await.concat()));
        Ok(())
    })
}

fn runtime() -> Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().context("start tokio")
}

async fn answer(mut stream: TcpStream, serve: &Serve) -> io::Result<Value> {
    stream.set_nodelay(true)?;
    match serve.behaviour {
        ServerBehaviour::Echo => {
            let (mut reader, mut writer) = stream.split();
            let received = tokio::io::copy(&mut reader, &mut writer).await?;
            Ok(json!({ "received": received }))
        }
        ServerBehaviour::Bulk => exchange(stream, serve.content.bytes).await,
        _ => Err(unsupported()),
    }
}

async fn talk(connect: Arc<Connect>) -> Value {
    let stream = match TcpStream::connect(connect.to).await {
        Ok(stream) => stream,
        Err(error) => return json!({ "error": format!("{:?}", error.kind()), "connected": false }),
    };
    let ends = ends(&stream);
    outcome(&ends, converse(stream, &connect).await)
}

async fn converse(mut stream: TcpStream, connect: &Connect) -> io::Result<Value> {
    stream.set_nodelay(true)?;
    match connect.behaviour {
        ClientBehaviour::PingPong => {
            let (ping, mut pong) = ([b'p'; PING], [0; PING]);
            for _ in 0..connect.rounds {
                stream.write_all(&ping).await?;
                stream.read_exact(&mut pong).await?;
            }
            Ok(json!({ "rounds": connect.rounds }))
        }
        ClientBehaviour::Bulk => exchange(stream, connect.content.bytes).await,
        ClientBehaviour::Read => {
            stream.write_all(connect.content.text.as_bytes()).await?;
            let mut text = Vec::new();
            stream.read_to_end(&mut text).await?;
            Ok(json!({ "received": text.len(), "text": String::from_utf8_lossy(&text) }))
        }
        _ => Err(unsupported()),
    }
}

/// Sends `bytes` bytes and receives as many, at the same time.
async fn exchange(stream: TcpStream, bytes: usize) -> io::Result<Value> {
    let (reader, mut writer) = stream.into_split();
    let sending = async move {
        let (mut pattern, mut checksum, mut left) = (Pattern(0), Checksum::default(), bytes);
        while left > 0 {
            let block = pattern.next_block(left.min(BLOCK));
            checksum.add(&block);
            writer.write_all(&block).await?;
            left -= block.len();
        }
        Ok::<_, io::Error>(checksum.text())
    };
    let receiving = async move {
        let mut reader = reader.take(bytes as u64);
        let (mut block, mut received, mut checksum) = (vec![0; BLOCK], 0, Checksum::default());
        loop {
            match reader.read(&mut block).await? {
                0 => return Ok::<_, io::Error>((received, checksum.text())),
                length => {
                    checksum.add(&block[..length]);
                    received += length;
                }
            }
        }
    };
    let (sent, (received, checksum)) = tokio::try_join!(sending, receiving)?;
    Ok(json!({ "sent": sent, "received": received, "checksum": checksum }))
}

fn ends(stream: &TcpStream) -> [Value; 2] {
    [stream.local_addr(), stream.peer_addr()].map(|end| end.map_or(Value::Null, |end| json!(end.to_string())))
}

//! What holds when several processes share a PostgreSQL database, and when it goes away.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering as Atomic};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;

use super::*;
use crate::postgres::testing::Server;

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn session_of(now: Timestamp, bytes: u64) -> Session {
    Session {
        id: SessionId(ordered_uuid(now)),
        tenant: tenant(),
        file: FileId(ordered_uuid(now)),
        wire: "w".into(),
        strategy: Strategy::Resumable,
        state: SessionState::Open,
        epoch: 1,
        size: Some(bytes),
        max_bytes: bytes,
        versions_allowed: true,
        created: now,
        expires: now.plus(Duration::from_secs(3600)),
        reserved: bytes,
        registers: false,
        key: Some(KeyId(random_uuid())),
        declaration: None,
        needs_file: false,
        parts: None,
        direct: None,
    }
}

async fn with_tenant(store: &SqlMeta) -> Timestamp {
    let now = Clock::system().now();
    assert!(store.create_tenant(TenantInfo::new(tenant(), "auto", now)).await.unwrap());
    now
}

#[tokio::test]
async fn a_quota_is_exact_when_two_processes_open_uploads_at_once() {
    let database = blocking(database).await;
    let replicas = [Arc::new(connected(&database.url(), 1).await), Arc::new(connected(&database.url(), 2).await)];
    let now = with_tenant(&replicas[0]).await;
    assert!(replicas[1].set_quota(&tenant(), Quota { bytes: Some(1000), sessions: None }).await.unwrap());
    let asked = (0..200).map(|n| {
        let replica = Arc::clone(&replicas[n % 2]);
        tokio::spawn(async move { replica.open_sessions(vec![session_of(now, 10)]).await.unwrap() })
    });
    let answers = join_all(asked).await;
    let taken = answers.iter().filter(|over| over.as_ref().unwrap().is_none()).count();
    assert_eq!(taken, 100, "each has its 10 bytes or is told that there are none left");
    let usage = replicas[0].usage(&tenant()).await.unwrap();
    assert_eq!((usage.reserved, usage.open_sessions), (1000, 100));
    assert_eq!(replicas[1].broken_invariants(now).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn two_processes_never_hold_one_job_or_one_lane() {
    let case = Case::on_postgres().await;
    let database: &Fresh = case._kept.downcast_ref().unwrap();
    let replicas = [Arc::new(connected(&database.url(), 1).await), Arc::new(connected(&database.url(), 2).await)];
    let changes: Vec<_> = (0..60).map(|n| put(&format!("x://{n}"), "")).collect();
    case.apply(PushKind::Items, 1, &changes).await;
    let mut held = HashSet::new();
    for replica in &replicas {
        let jobs = replica.lease_jobs(case.now, LEASE, 10).await.unwrap();
        held.extend(jobs.into_iter().map(|job| job.subject));
    }
    assert_eq!(held.len(), 20);
    let asked = (0..8).map(|n| {
        let replica = Arc::clone(&replicas[n % 2]);
        let now = case.now;
        tokio::spawn(async move { replica.lease_jobs(now, LEASE, 5).await.unwrap() })
    });
    for jobs in join_all(asked).await {
        for job in jobs.unwrap() {
            assert!(held.insert(job.subject), "leased twice: {job:?}");
        }
    }
    // A process that starts again gives back what it held before, and nothing of another's.
    let left = async || replicas[0].lease_jobs(case.now, LEASE, 100).await.unwrap().len();
    assert_eq!(left().await, 60 - held.len(), "the rest");
    replicas[1].release_leases().await.unwrap();
    let again = left().await;
    assert!((10..=50).contains(&again), "{again} of 60 were the second's");

    for n in 0..8 {
        assert!(matches!(case.store.accept(case.push(PushKind::Items, 2 + n, &[])).await.unwrap(), Accepted::New(_)));
    }
    let asked = (0..8).map(|n| {
        let replica = Arc::clone(&replicas[n % 2]);
        let now = case.now;
        tokio::spawn(async move { replica.lease_push(now, LEASE).await.unwrap() })
    });
    let leased = join_all(asked).await.into_iter().filter(|lease| lease.as_ref().unwrap().is_some()).count();
    assert_eq!(leased, 1, "they are all of one source");
}

#[tokio::test]
async fn one_process_leads_until_it_is_gone() {
    let database = blocking(database).await;
    let (first, second) = (connected(&database.url(), 1).await, connected(&database.url(), 2).await);
    assert!(first.leads().await.unwrap() && first.leads().await.unwrap());
    assert!(!second.leads().await.unwrap());
    drop(first);
    for _ in 0..200 {
        if second.leads().await.unwrap() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody leads");
}

/// Between a store and its server: loses the commits that it is told to lose.
struct Proxy {
    port: u16,
    lose: Arc<AtomicU8>,
}

const NOTHING: u8 = 0;
/// The commit reaches the server, its answer nobody.
const ANSWER: u8 = 1;
/// The commit does not reach the server.
const QUESTION: u8 = 2;

impl Proxy {
    fn before(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let lose = Arc::new(AtomicU8::new(NOTHING));
        let losing = Arc::clone(&lose);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, UnixStream::connect(&socket)) else { continue };
                let losing = Arc::clone(&losing);
                std::thread::spawn(move || carry(&client, &server, &losing));
            }
        });
        Self { port, lose }
    }

    fn url(&self, database: &Fresh) -> String {
        format!("postgres://landfall@127.0.0.1:{}/{}", self.port, database.name())
    }
}

fn carry(client: &TcpStream, server: &UnixStream, losing: &AtomicU8) {
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let mute = Arc::new(AtomicU8::new(NOTHING));
    let muted = Arc::clone(&mute);
    let back = std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut buffer) {
            // The server has answered: what was asked is done.
            if muted.load(Atomic::SeqCst) == ANSWER || to_client.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to_client.shutdown(Shutdown::Both);
        let _ = from_server.shutdown(Shutdown::Both);
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from_client.read(&mut buffer) {
        if buffer[..count].windows(6).any(|word| word == b"COMMIT") {
            let lost = losing.swap(NOTHING, Atomic::SeqCst);
            mute.store(lost, Atomic::SeqCst);
            if lost == QUESTION {
                break;
            }
        }
        if to_server.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    if mute.load(Atomic::SeqCst) != ANSWER {
        let _ = server.shutdown(Shutdown::Both);
    }
    back.join().unwrap();
    let _ = client.shutdown(Shutdown::Both);
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_has_its_effect_once() {
    let database = blocking(database).await;
    let proxy = blocking(|| Proxy::before(crate::postgres::testing::shared().socket())).await;
    let store = Arc::new(connected(&proxy.url(&database), 1).await);
    let now = with_tenant(&store).await;
    for (round, lost) in [ANSWER, QUESTION, ANSWER, QUESTION].into_iter().enumerate() {
        proxy.lose.store(lost, Atomic::SeqCst);
        // A verb that can be run once only, and several in one group.
        let asked = (0..5).map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.open_sessions(vec![session_of(now, 7)]).await.unwrap() })
        });
        for answer in join_all(asked).await {
            assert_eq!(answer.unwrap(), None);
        }
        assert_eq!(proxy.lose.load(Atomic::SeqCst), NOTHING, "a commit was lost");
        let opened = u64::try_from(5 * (round + 1)).unwrap();
        let usage = store.usage(&tenant()).await.unwrap();
        assert_eq!((usage.open_sessions, usage.reserved), (opened, 7 * opened));
    }
    assert_eq!(store.broken_invariants(now).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_under_load_loses_nothing_that_was_acknowledged() {
    let server = Arc::new(blocking(Server::start).await);
    blocking({
        let server = Arc::clone(&server);
        move || server.sql("postgres", "CREATE DATABASE facts")
    })
    .await;
    let store = Arc::new(connected(&server.url("facts"), 1).await);
    let now = with_tenant(&store).await;
    let (acknowledged, asked) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
    let stop = Arc::new(AtomicU8::new(0));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (store, acknowledged, asked, stop) =
                (Arc::clone(&store), Arc::clone(&acknowledged), Arc::clone(&asked), Arc::clone(&stop));
            tokio::spawn(async move {
                while stop.load(Atomic::SeqCst) == 0 {
                    let session = session_of(now, 1);
                    asked.fetch_add(1, Atomic::SeqCst);
                    // While nobody can know, it is an error, and the session may be there.
                    if let Ok(None) = store.open_sessions(vec![session.clone()]).await {
                        acknowledged.lock().unwrap().push(session.id);
                    }
                }
            })
        })
        .collect();
    let count = || acknowledged.lock().unwrap().len();
    let fifty_more = async || {
        let before = count();
        for _ in 0..1500 {
            if count() >= before + 50 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no verb is acknowledged any more");
    };
    for _ in 0..3 {
        fifty_more().await;
        blocking({
            let server = Arc::clone(&server);
            move || {
                server.kill();
                server.run();
            }
        })
        .await;
    }
    fifty_more().await;
    stop.store(1, Atomic::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    for id in &acknowledged {
        assert!(store.session(&tenant(), *id).await.unwrap().is_some(), "{id} was acknowledged and is lost");
    }
    let usage = store.usage(&tenant()).await.unwrap();
    let (least, most) = (u64::try_from(acknowledged.len()).unwrap(), asked.load(Atomic::SeqCst));
    assert!((least..=most).contains(&usage.open_sessions), "{usage:?}: {least} to {most}");
    assert_eq!(store.broken_invariants(now).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn while_the_server_is_away_verbs_and_queries_fail_after_a_while_and_go_on_when_it_is_back() {
    let server = Arc::new(blocking(Server::start).await);
    let of_server = |work: fn(&Server)| {
        let server = Arc::clone(&server);
        blocking(move || work(&server))
    };
    of_server(|server| drop(server.sql("postgres", "CREATE DATABASE facts"))).await;
    let store = connected(&server.url("facts"), 1).await;
    let now = with_tenant(&store).await;
    of_server(Server::kill).await;
    let acme = tenant();
    let begun = std::time::Instant::now();
    // Several of one lane: those behind the first are not each waited for.
    let verbs = join_all((0..5).map(|_| store.ping()));
    let (verbs, query, look) = tokio::join!(verbs, store.tenants(), store.tenant(&acme));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(verbs.iter().all(|verb| matches!(verb, Err(MetaError::Failed(_)))), "{verbs:?}");
    assert!(matches!(query, Err(MetaError::Failed(_))), "{query:?}");
    assert!(matches!(look, Err(MetaError::Failed(_))), "{look:?}");
    of_server(Server::run).await;
    store.ping().await.unwrap();
    assert_eq!(store.tenants().await.unwrap().len(), 1);
    assert_eq!(store.open_sessions(vec![session_of(now, 1)]).await.unwrap(), None);
}

async fn refused(url: String) -> String {
    let target = Target::parse(&url).unwrap();
    blocking(move || SqlMeta::connect(&target, [0; 16])).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_server_that_would_lose_what_was_acknowledged_is_refused() {
    let server = Arc::new(blocking(Server::start).await);
    let sql = |sql: &'static str| {
        let server = Arc::clone(&server);
        blocking(move || server.sql("postgres", sql))
    };
    for name in ["synchronous_commit", "fsync", "full_page_writes"] {
        let options = if name == "synchronous_commit" {
            sql("CREATE DATABASE lossy").await;
            sql("ALTER DATABASE lossy SET synchronous_commit = off").await;
            server.url("lossy")
        } else {
            let again = Arc::clone(&server);
            blocking(move || {
                again.kill();
                again.run_with(&[&format!("{name}=off")]);
            })
            .await;
            server.url("postgres")
        };
        let says = refused(options).await;
        assert!(says.contains(&format!("set {name} = on")), "{says}");
    }
    let again = Arc::clone(&server);
    blocking(move || {
        again.kill();
        again.run();
    })
    .await;
    sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0").await;
    let says = refused(server.url("latin")).await;
    assert!(says.contains("UTF8"), "{says}");
    let says = refused(server.url("nowhere")).await;
    assert!(says.contains("nowhere") && says.contains("`database`"), "{says}");
}

#[tokio::test]
async fn a_newer_format_is_refused_and_an_older_one_is_not_only_read() {
    let database = blocking(database).await;
    let set = |format: i64| {
        let url = database.url();
        let sql = format!("UPDATE landfall_formats SET format = {format} WHERE part = 'facts'");
        database.sql(&sql);
        url
    };
    let says = refused(set(99)).await;
    assert_eq!(says, "the data has format 99, this version of landfall knows up to 1: use the newer version");
    let target = Target::parse(&set(0)).unwrap();
    let says = blocking(move || SqlMeta::connect_to_read(&target)).await.unwrap_err().to_string();
    assert_eq!(says, "the data has format 0, this version of landfall has format 1: run the server once");
    let empty = blocking(Fresh::empty).await;
    let target = Target::parse(&empty.url()).unwrap();
    let says = blocking(move || SqlMeta::connect_to_read(&target)).await.unwrap_err().to_string();
    assert!(says.contains("run the server once"), "{says}");
}

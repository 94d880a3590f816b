use super::*;
use crate::store::postgres::Postgresql;
use ringwall_store::postgres::Postgres;
use ringwall_store::testing::Server;
use time::OffsetDateTime;
use tokio::task::JoinHandle;

struct Replica {
    leadership: Arc<Leadership>,
    store: Arc<dyn Store>,
    task: JoinHandle<()>,
}

impl Replica {
    async fn start(name: &str, postgres: Postgres) -> Self {
        let store: Arc<dyn Store> = Arc::new(Postgresql::open(postgres).await.unwrap());
        let leadership = Leadership::new(name.to_owned(), Arc::new(OffsetDateTime::now_utc));
        let running = Arc::clone(&leadership);
        let shared = Arc::clone(&store);
        Self {
            leadership,
            store,
            task: tokio::spawn(async move { running.run(shared, std::future::pending()).await }),
        }
    }

    async fn leads(&self) -> Fence {
        loop {
            if let Ok(fence) = self.leadership.fence() {
                return fence;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The real database and the real clock: the leader dies without a word, the other one leads within
/// ten seconds, and a write of the old one is refused.
#[tokio::test]
async fn the_other_replica_takes_over_from_a_dead_leader_within_ten_seconds() {
    let server = Server::shared("control-plane");
    let database = server.create_database();
    let first = Replica::start("first", server.connect(&database).await).await;
    let old = first.leads().await;
    let second = Replica::start("second", server.connect(&database).await).await;
    let refusal = loop {
        match second.leadership.fence() {
            Err(Error::NotLeader { leader }) if leader == "first" => break leader,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Ok(_) => panic!("two leaders"),
        }
    };
    assert_eq!(refusal, "first");
    assert!(write(&first, 0, &old).await, "the leader writes");

    first.task.abort();
    let died = Instant::now();
    let new = second.leads().await;
    let took = died.elapsed();
    println!("failover took {took:?}");
    assert!(took <= Duration::from_secs(10), "{took:?}");
    assert_eq!(new.epoch, old.epoch + 1);
    assert!(!write(&first, 1, &old).await, "the old epoch is over");
    assert!(write(&second, 1, &new).await);
}

#[tokio::test]
async fn a_leader_that_stops_gives_the_leadership_back_at_once() {
    let server = Server::shared("control-plane");
    let database = server.create_database();
    let store: Arc<dyn Store> = Arc::new(
        Postgresql::open(server.connect(&database).await)
            .await
            .unwrap(),
    );
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let first = Leadership::new("first".to_owned(), Arc::new(OffsetDateTime::now_utc));
    first.ask(&*store).await;
    let fence = first.fence().unwrap();
    let running = tokio::spawn(Arc::clone(&first).run(Arc::clone(&store), async {
        let _ = stopped.await;
    }));
    stop.send(()).unwrap();
    running.await.unwrap();
    let claim = store.lead("second", TTL).await.unwrap();
    assert!(claim.mine, "{claim:?}");
    assert_eq!(claim.epoch, fence.epoch + 1);
}

async fn write(replica: &Replica, expected: u64, fence: &Fence) -> bool {
    replica
        .store
        .replace_document("test", expected, b"content", Some(fence))
        .await
        .unwrap()
}

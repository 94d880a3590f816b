use super::*;
use proptest::prelude::*;
use time::macros::datetime;

const EPOCH: OffsetDateTime = datetime!(2030-01-01 12:00 UTC);

fn at(millis: u64) -> Moment {
    let up = Duration::from_millis(millis);
    Moment {
        up,
        wall: EPOCH + up,
    }
}

fn claim(holder: &str, epoch: u64, mine: bool, remaining: u64) -> Claim {
    Claim {
        holder: holder.to_owned(),
        epoch,
        mine,
        remaining: Duration::from_millis(remaining),
    }
}

#[test]
fn a_lease_is_believed_for_less_than_it_lasts() {
    let mut lease = Lease::new("a".to_owned());
    assert_eq!(lease.wait(at(0)), Duration::ZERO);
    assert_eq!(lease.fence(at(0)), None);
    lease.answered(at(0), &claim("a", 3, true, 6000));
    let fence = lease.fence(at(5499)).unwrap();
    assert_eq!((fence.holder.as_str(), fence.epoch), ("a", 3));
    assert_eq!(lease.fence(at(5500)), None);
    assert_eq!(lease.wait(at(500)), Duration::from_millis(1000));
    assert_eq!(lease.leader(at(5499)), Some("a"));
    assert_eq!(lease.leader(at(5500)), None);
}

#[test]
fn a_leader_that_has_lost_its_store_asks_again_in_its_own_time() {
    let mut lease = Lease::new("a".to_owned());
    lease.answered(at(0), &claim("a", 1, true, 5_000));
    let late = at(20_000);
    assert!(lease.wait(late).is_zero(), "its lease is over");
    lease.failed(late);
    assert_eq!(lease.wait(late), POLL);
    assert!(lease.fence(late).is_none());
}

#[test]
fn a_machine_that_slept_leads_no_more() {
    let mut lease = Lease::new("a".to_owned());
    lease.answered(at(0), &claim("a", 1, true, 6000));
    let awake = Moment {
        up: Duration::from_millis(10),
        wall: EPOCH + Duration::from_secs(3600),
    };
    assert_eq!(lease.fence(awake), None);
    assert_eq!(lease.wait(awake), Duration::ZERO);
}

#[test]
fn a_clock_that_was_set_back_does_not_prolong_a_lease() {
    let mut lease = Lease::new("a".to_owned());
    lease.answered(at(0), &claim("a", 1, true, 6000));
    let set_back = Moment {
        up: Duration::from_millis(5600),
        wall: EPOCH - Duration::from_secs(3600),
    };
    assert_eq!(lease.fence(set_back), None);
}

#[test]
fn a_follower_knows_its_leader_and_looks_when_the_lease_ends() {
    let mut lease = Lease::new("b".to_owned());
    lease.answered(at(0), &claim("a", 1, false, 300));
    assert_eq!(lease.leader(at(0)), Some("a"));
    assert_eq!(lease.fence(at(0)), None);
    assert_eq!(lease.wait(at(0)), Duration::from_millis(300));
    lease.failed(at(300));
    assert_eq!(lease.wait(at(300)), POLL);
    assert_eq!(lease.leader(at(20_000)), None);
}

/// The store's side, as the statement in `store/postgres.rs` does it.
#[derive(Default)]
struct Row {
    holder: Option<usize>,
    epoch: u64,
    expires: Duration,
}

impl Row {
    fn lead(&mut self, who: usize, now: Duration) -> Claim {
        if self.holder != Some(who) && (self.holder.is_none() || self.expires < now) {
            self.epoch += 1;
            self.holder = Some(who);
        }
        if self.holder == Some(who) {
            self.expires = now + TTL;
        }
        Claim {
            holder: self.holder.unwrap().to_string(),
            epoch: self.epoch,
            mine: self.holder == Some(who),
            remaining: self.expires.saturating_sub(now),
        }
    }
}

/// What happens to a replica's path to the store in one step of 100 ms.
#[derive(Clone, Copy, Debug)]
enum Network {
    Works {
        there: u16,
        back: u16,
    },
    LosesQuestion,
    LosesAnswer {
        there: u16,
    },
    /// The replica is dead, or cut off, for this many steps.
    Gone {
        steps: u8,
    },
}

fn network() -> impl Strategy<Value = Network> {
    prop_oneof![
        12 => (0..900_u16, 0..900_u16).prop_map(|(there, back)| Network::Works { there, back }),
        1 => Just(Network::LosesQuestion),
        1 => (0..900_u16).prop_map(|there| Network::LosesAnswer { there }),
        1 => (1..120_u8).prop_map(|steps| Network::Gone { steps }),
    ]
}

/// One replica, with a clock that may run 2 % fast or slow.
struct Replica {
    lease: Lease,
    rate: f64,
    gone_until: Duration,
    /// Questions under way: asked at (own clock), arrives at, answer arrives at (true time).
    question: Option<(Moment, Duration, Option<Duration>)>,
    answer: Option<(Moment, Duration, Claim)>,
}

impl Replica {
    fn clock(&self, now: Duration) -> Moment {
        let up = now.mul_f64(self.rate);
        Moment {
            up,
            wall: EPOCH + up,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Under loss, delay, death and unequal clocks: at most one replica believes to lead, epochs
    /// never go back, and when somebody can reach the store there is a leader within ten seconds.
    #[test]
    fn two_never_lead_at_once(
        rates in proptest::array::uniform3(0.98..1.02_f64),
        script in proptest::collection::vec(network(), 100..600),
    ) {
        let step = Duration::from_millis(100);
        let mut row = Row::default();
        let mut script = script.into_iter().cycle();
        let mut replicas: Vec<_> = rates.iter().enumerate().map(|(index, rate)| Replica {
            lease: Lease::new(index.to_string()),
            rate: *rate,
            gone_until: Duration::ZERO,
            question: None,
            answer: None,
        }).collect();
        let mut now = Duration::ZERO;
        let mut leaderless_since = Duration::ZERO;
        let mut last_epoch = 0;
        for _ in 0..1200 {
            now += step;
            for (who, replica) in replicas.iter_mut().enumerate() {
                if let Some((asked, arrives, back)) = replica.question
                    && arrives <= now
                {
                    let claim = row.lead(who, arrives.max(now - step));
                    replica.question = None;
                    replica.answer = back.map(|back| (asked, back, claim));
                }
                if now < replica.gone_until {
                    continue;
                }
                let own = replica.clock(now);
                if let Some((asked, arrives, claim)) = replica.answer.take() {
                    if arrives <= now {
                        replica.lease.answered(asked, &claim);
                    } else {
                        replica.answer = Some((asked, arrives, claim));
                    }
                }
                let idle = replica.question.is_none() && replica.answer.is_none();
                if idle && replica.lease.wait(own).is_zero() {
                    match script.next().unwrap() {
                        Network::Works { there, back } => {
                            let there = now + Duration::from_millis(there.into());
                            let back = there + Duration::from_millis(back.into());
                            replica.question = Some((own, there, Some(back)));
                        }
                        Network::LosesAnswer { there } => {
                            let there = now + Duration::from_millis(there.into());
                            replica.question = Some((own, there, None));
                            replica.lease.failed(own);
                        }
                        Network::LosesQuestion => replica.lease.failed(own),
                        Network::Gone { steps } => {
                            replica.gone_until = now + step * steps.into();
                            replica.lease.failed(own);
                        }
                    }
                }
            }
            let leading: Vec<_> = replicas
                .iter()
                .filter_map(|replica| replica.lease.fence(replica.clock(now)))
                .collect();
            prop_assert!(leading.len() <= 1, "{leading:?} at {now:?}");
            if let Some(fence) = leading.first() {
                prop_assert!(fence.epoch >= last_epoch);
                last_epoch = fence.epoch;
                leaderless_since = now;
            }
            let reachable = replicas.iter().all(|replica| now >= replica.gone_until);
            if !reachable {
                leaderless_since = now;
            }
            prop_assert!(now - leaderless_since <= Duration::from_secs(20), "no leader at {now:?}");
        }
    }
}

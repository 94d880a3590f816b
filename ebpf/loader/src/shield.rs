//! The edge shield of one node: the deny list and the guard of connection rates, at interfaces.
//!
//! Pins: `shield/maps-VERSION/NAME` and `shield/links/MODE-INTERFACE` in the platform's folder. What is denied stays denied
//! without this process. Must not: decide whom to deny, nor for how long.
//! Read next: `shield/attach.rs` (where it runs), `shield/list.rs` (whom it denies),
//! `shield/front.rs` (whom it drops fastest).

mod attach;
mod front;
mod list;

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::{Ebpf, EbpfLoader, Pod};
use ringwall_ebpf_common::shield::{Bucket, Count, Denial, Host6, Key4, Key6, Settings, VERSION};
use ringwall_ebpf_common::{Address, Prefix};

use crate::error::{Error, Result};
use crate::maps::{self, Raw};
use crate::{bpffs, programs, tier};

pub use attach::{Attached, Mode, Want};
use front::Front;
pub use list::{Added, Denied, Fill, List, Swept, Talker};

/// The programs of the shield: one for the driver, one for the stack.
pub const SHIELD: [&str; 2] = ["rw_shield_xdp", "rw_shield_tc"];
/// Within the platform's folder of pins, and within that one.
const FOLDER: &str = "shield";
const LINKS: &str = "links";

/// Its maps; all are pinned.
const MAPS: [&str; 11] = [
    "SHIELD_SETTINGS",
    "SHIELD_PORTS",
    "SHIELD_HOSTS_4",
    "SHIELD_HOSTS_6",
    "SHIELD_DENY_4",
    "SHIELD_DENY_6",
    "SHIELD_ALLOW_4",
    "SHIELD_ALLOW_6",
    "SHIELD_FRONT",
    "SHIELD_RATES",
    "SHIELD_COUNTS",
];

/// What the shield guards, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Where the gateway listens.
    pub ports: Vec<u16>,
    /// A denied source's packets are dropped whatever their port; else at `ports` alone.
    pub everything: bool,
    /// How fast one source may open connections to `ports`; none turns that guard off.
    pub rate: Option<ConnectionRate>,
    /// Never dropped.
    pub allow: Vec<Prefix>,
}

/// New connections of one IPv4 address, or one /64 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionRate {
    pub per_second: NonZeroU32,
    /// How many may come at once.
    pub burst: NonZeroU32,
}

/// How to load.
#[derive(Clone, Debug, Default)]
pub struct ShieldOptions {
    /// Programs that are not attached: by this a test is seen to fail.
    pub without: Vec<String>,
    /// Other sizes of maps than the programs name; for tests of full ones.
    pub capacities: Vec<(&'static str, u32)>,
    /// How long a sweep holds, where it is not `Shield::LEASE`.
    pub lease: Option<Duration>,
}

/// The shield. Dropping it leaves it at work.
pub struct Shield {
    object: Ebpf,
    tables: Tables,
    links: PathBuf,
    without: Vec<String>,
    /// Entries of each list, in the order of `List::ALL`.
    used: [u32; 4],
    capacity: [u32; 4],
    front: Front,
    lease: Duration,
    settings: Settings,
    allow: Vec<Prefix>,
}

struct Tables {
    settings: Array<MapData, Raw<Settings>>,
    ports: Array<MapData, u64>,
    hosts_4: HashMap<MapData, u32, Raw<Denial>>,
    hosts_6: HashMap<MapData, Host6, Raw<Denial>>,
    deny_4: LpmTrie<MapData, Key4, Raw<Denial>>,
    deny_6: LpmTrie<MapData, Key6, Raw<Denial>>,
    allow_4: LpmTrie<MapData, Key4, u64>,
    allow_6: LpmTrie<MapData, Key6, u64>,
    front: Array<MapData, u64>,
    rates: HashMap<MapData, Raw<Address>, Raw<Bucket>>,
    counts: PerCpuArray<MapData, u64>,
}

impl Shield {
    /// Loads the programs, or takes over what a predecessor has pinned in the platform's folder; each pinned link runs the
    /// new program from then on, without a packet in between that none looks at.
    pub fn open(object: &[u8], pins: &Path, guard: &Guard) -> Result<Self> {
        Self::open_with(object, pins, guard, &ShieldOptions::default())
    }

    /// The same with other options.
    pub fn open_with(
        object: &[u8],
        pins: &Path,
        guard: &Guard,
        options: &ShieldOptions,
    ) -> Result<Self> {
        if let Some(missing) = tier::missing() {
            return Err(Error::Unsupported(missing));
        }
        bpffs::prepare(pins)?;
        let own = bpffs::folder(pins, FOLDER)?;
        let version = format!("maps-{VERSION}");
        let folder = bpffs::folder(&own, &version)?;
        let links = bpffs::folder(&own, LINKS)?;
        let mut loader = EbpfLoader::new();
        for name in MAPS {
            loader.map_pin_path(name, maps::pin(&folder, name));
        }
        // The mesh's maps are made with every loading; nobody uses these.
        for name in maps::PREALLOCATED {
            loader.map_max_entries(name, maps::SMALL);
        }
        for (name, capacity) in &options.capacities {
            loader.map_max_entries(name, *capacity);
        }
        let mut object = loader.load(object)?;
        for name in SHIELD {
            programs::load(&mut object, name)?;
        }
        let tables = Tables::take(&mut object)?;
        let mut shield = Self {
            capacity: tables.capacity()?,
            tables,
            object,
            links,
            without: options.without.clone(),
            used: [0; 4],
            front: Front::default(),
            lease: options.lease.unwrap_or(Self::LEASE),
            settings: Settings::default(),
            allow: Vec::new(),
        };
        shield.read_front()?;
        shield.recount()?;
        shield.set(guard)?;
        shield.replace_pinned()?;
        bpffs::remove_others(&own, "maps-", &version);
        Ok(shield)
    }

    /// Guards this from now on. New entries come before old ones go.
    pub fn set(&mut self, guard: &Guard) -> Result<()> {
        self.retire_front()?;
        self.set_allowed(&guard.allow)?;
        self.allow.clone_from(&guard.allow);
        for word in 0..1024_u32 {
            let bits = guard
                .ports
                .iter()
                .filter(|port| u32::from(**port) >> 6 == word)
                .fold(0_u64, |bits, port| bits | 1 << (port & 63));
            let set = self.tables.ports.set(word, bits, 0);
            set.map_err(|error| Error::map("SHIELD_PORTS", error))?;
        }
        let (interval, tolerance) = guard.rate.map_or((0, 0), |rate| {
            Settings::rate(rate.per_second.get(), rate.burst.get())
        });
        self.settings = Settings {
            interval,
            tolerance,
            scope: if guard.everything {
                Settings::EVERYTHING
            } else {
                0
            },
            padding: 0,
            front_until: 0,
        };
        self.write_settings()
    }

    fn write_settings(&mut self) -> Result<()> {
        let set = self.tables.settings.set(0, Raw(self.settings), 0);
        set.map_err(|error| Error::map("SHIELD_SETTINGS", error))
    }

    /// Packets by what became of them, since the maps were made.
    pub fn counts(&self) -> Result<Vec<(Count, u64)>> {
        let read = |count: Count| {
            let cpus = self.tables.counts.get(&(count as u32), 0);
            let cpus = cpus.map_err(|error| Error::map("SHIELD_COUNTS", error))?;
            Ok((count, cpus.iter().sum()))
        };
        Count::ALL.into_iter().map(read).collect()
    }

    /// How full each list is.
    #[must_use]
    pub fn fill(&self) -> [(List, Fill); 4] {
        List::ALL.map(|list| (list, self.fill_of(list)))
    }

    /// Would this frame pass? The driver's program runs over the bytes (BPF_PROG_TEST_RUN) and counts as it would.
    pub fn rehearse(&self, frame: &[u8]) -> Result<bool> {
        let driver = Mode::Driver.program();
        if self.without.iter().any(|name| name == driver) {
            return Ok(true);
        }
        programs::rehearse_driver(&self.object, driver, frame)
    }
}

impl Tables {
    fn take(object: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            settings: of(object, "SHIELD_SETTINGS")?,
            ports: of(object, "SHIELD_PORTS")?,
            hosts_4: of(object, "SHIELD_HOSTS_4")?,
            hosts_6: of(object, "SHIELD_HOSTS_6")?,
            deny_4: of(object, "SHIELD_DENY_4")?,
            deny_6: of(object, "SHIELD_DENY_6")?,
            allow_4: of(object, "SHIELD_ALLOW_4")?,
            allow_6: of(object, "SHIELD_ALLOW_6")?,
            front: of(object, "SHIELD_FRONT")?,
            rates: of(object, "SHIELD_RATES")?,
            counts: of(object, "SHIELD_COUNTS")?,
        })
    }

    /// In the order of `List::ALL`.
    fn capacity(&self) -> Result<[u32; 4]> {
        Ok([
            capacity("SHIELD_HOSTS_4", &self.hosts_4)?,
            capacity("SHIELD_HOSTS_6", &self.hosts_6)?,
            capacity("SHIELD_DENY_4", &self.deny_4)?,
            capacity("SHIELD_DENY_6", &self.deny_6)?,
        ])
    }
}

fn of<M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<M> {
    let map = maps::take(object, name)?;
    M::try_from(map).map_err(|error| Error::map(name, error))
}

fn capacity<K: Pod, V: Pod>(
    name: &'static str,
    map: &impl aya::maps::IterableMap<K, V>,
) -> Result<u32> {
    let info = map.map().info().map_err(|error| Error::map(name, error))?;
    Ok(info.max_entries())
}

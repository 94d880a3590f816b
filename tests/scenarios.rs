//! The list of what is proven end to end, by area. A name starts with the requirement's row or with
//! `attack_`, so that `docs/controls.md` can be read against it.

mod orders;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Result;
use e2e::stack::StackInfo;

type Play = Box<dyn Fn(Arc<StackInfo>) -> Pin<Box<dyn Future<Output = Result<()>>>> + Send + Sync>;

/// One story with the running platform.
pub(crate) struct Scenario {
    pub name: &'static str,
    pub company: Company,
    pub play: Play,
}

/// Whether other scenarios may run at the same time.
pub(crate) enum Company {
    Others,
    /// It stops, kills or floods a component.
    Alone,
}

macro_rules! scenarios {
    ($list:ident, $company:expr, $module:ident: $($name:ident),+ $(,)?) => {
        $($list.push(Scenario {
            name: stringify!($name),
            company: $company,
            play: Box::new(|stack| Box::pin($module::$name(stack))),
        });)+
    };
}

pub(crate) fn all() -> Vec<Scenario> {
    let mut list = Vec::new();
    scenarios!(list, Company::Others, orders: r61_an_order_is_placed_and_confirmed);
    list
}

//! `${…}` in a component's own configuration.
//!
//! There is little of it on purpose: `${state}` `${data}` `${identity}` `${web}` `${profile}`
//! `${domain}` `${trust_domain}` `${public_port}` `${public_listen}` `${port:NAME}` `${url:LABEL}`.
//! A value that is nothing but one variable takes the variable's type: `${public_port}` becomes a
//! number, `${public_listen}` a list.

use serde_json::Value;

use super::{Component, Composition, Profile};
use crate::state::StateDir;

/// What the variables stand for in one component's configuration.
pub(crate) struct Variables<'a> {
    pub(crate) composition: &'a Composition,
    pub(crate) state: &'a StateDir,
    pub(crate) profile: Profile,
    pub(crate) component: &'a Component,
}

impl Variables<'_> {
    /// Replaces every variable in a value; an unknown one is returned as the error.
    pub(crate) fn fill(&self, value: &Value) -> Result<Value, String> {
        match value {
            Value::String(text) => self.fill_text(text),
            Value::Array(items) => items
                .iter()
                .map(|item| self.fill(item))
                .collect::<Result<_, _>>()
                .map(Value::Array),
            Value::Object(fields) => fields
                .iter()
                .map(|(key, value)| Ok((key.clone(), self.fill(value)?)))
                .collect::<Result<_, _>>()
                .map(Value::Object),
            other => Ok(other.clone()),
        }
    }

    fn fill_text(&self, text: &str) -> Result<Value, String> {
        let whole = text
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix('}'));
        if let Some(name) = whole.filter(|name| !name.contains('}')) {
            return self.value_of(name);
        }
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, remaining) = after
                .split_once('}')
                .ok_or_else(|| format!("`{text}` lacks a closing brace"))?;
            filled.push_str(before);
            match self.value_of(name)? {
                Value::String(value) => filled.push_str(&value),
                other => filled.push_str(&other.to_string()),
            }
            rest = remaining;
        }
        filled.push_str(rest);
        Ok(Value::String(filled))
    }

    fn value_of(&self, name: &str) -> Result<Value, String> {
        let composition = self.composition;
        let own = &self.component.name.value;
        let path = |path: std::path::PathBuf| Value::from(path.to_string_lossy().into_owned());
        let unknown = || format!("`${{{name}}}` is no variable");
        match name.split_once(':') {
            Some(("port", other)) => composition
                .component(other)
                .map(|component| component.port.value.into())
                .ok_or_else(unknown),
            Some(("url", label)) if composition.public.hosts.iter().any(|host| host == label) => {
                Ok(composition.url(label).into())
            }
            Some(_) => Err(unknown()),
            None => match name {
                "state" => Ok(path(self.state.root().to_path_buf())),
                "data" => Ok(path(self.state.data(own))),
                "identity" => Ok(path(self.state.identity(own))),
                "web" => Ok(path(composition.web.clone())),
                "profile" => Ok(self.profile.as_str().into()),
                "domain" => Ok(composition.public.domain.value.clone().into()),
                "trust_domain" => Ok(composition.trust_domain.value.clone().into()),
                "public_port" => Ok(composition.public.port.value.into()),
                "public_listen" => {
                    let port = composition.public.port.value;
                    let addresses = composition.public.listen.iter();
                    Ok(addresses
                        .map(|ip| std::net::SocketAddr::new(*ip, port).to_string())
                        .collect())
                }
                _ => Err(unknown()),
            },
        }
    }
}

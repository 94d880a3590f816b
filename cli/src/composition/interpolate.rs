//! `${…}` in a component's own configuration.
//!
//! There is little of it on purpose: `${data}` `${identity}` `${ca}` `${edge}` `${web}`
//! `${plugins}` `${profile}` `${domain}` `${trust_domain}` `${public_port}` `${public_listen}` `${public_address}`
//! `${span_export}` `${address:NAME}` `${url:LABEL}`.
//! A value that is nothing but one variable takes the variable's type: `${public_port}` becomes a
//! number, `${public_listen}` a list, `${span_export}` nothing where spans are not passed on.

use serde_json::Value;

use super::{Component, Composition, Profile};
use crate::site::Site;

/// What the variables stand for in one component's configuration.
pub(crate) struct Variables<'a> {
    pub(crate) composition: &'a Composition,
    pub(crate) site: &'a Site,
    pub(crate) profile: Profile,
    pub(crate) component: &'a Component,
    /// The kernel leads its calls to its proxy: addresses are those of the services themselves.
    pub(crate) captured: bool,
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
        let (composition, site) = (self.composition, self.site);
        let own = &self.component.name.value;
        let path = |path: std::path::PathBuf| Value::from(path.to_string_lossy().into_owned());
        let unknown = || format!("`${{{name}}}` is no variable");
        match name.split_once(':') {
            Some(("address", other)) => {
                let edges = composition.sidecar(self.component).into_iter();
                let mut edges = edges.flat_map(|sidecar| &sidecar.tcp);
                if let Some(edge) = edges.find(|edge| edge.to.value == other && !self.captured) {
                    return Ok(crate::render::tcp_address(edge).into());
                }
                composition
                    .component(other)
                    .map(|component| site.dial(component).to_string().into())
                    .ok_or_else(unknown)
            }
            Some(("url", label)) if composition.public.hosts.iter().any(|host| host == label) => {
                Ok(composition.url(label).into())
            }
            Some(_) => Err(unknown()),
            None => match name {
                "data" => Ok(path(site.data(own))),
                "identity" => Ok(path(site.read(own).identity)),
                "ca" => Ok(path(site.read(own).ca)),
                "edge" => Ok(path(site.read(own).edge)),
                "web" => Ok(path(site.web())),
                "plugins" => Ok(path(site.plugins())),
                "profile" => Ok(self.profile.as_str().into()),
                "domain" => Ok(composition.public.domain.value.clone().into()),
                "trust_domain" => Ok(composition.trust_domain.value.clone().into()),
                "public_port" => Ok(composition.public.port.value.into()),
                "public_listen" => {
                    let addresses = site.public_listen(composition).into_iter();
                    Ok(addresses.map(|address| address.to_string()).collect())
                }
                "public_address" => Ok(site.public_dial(composition).to_string().into()),
                "span_export" => {
                    let export = site.span_export(composition);
                    Ok(export.map_or(Value::Null, |export| export.to.value.clone().into()))
                }
                _ => Err(unknown()),
            },
        }
    }
}

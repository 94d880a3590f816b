//! The proxies under measurement and their configurations: each as its own documentation would have it for one
//! core, keep-alive on both sides, logs off in the plain case.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::super::material::{AUDIENCE, ISSUER, Material};
use crate::build::{Profile, outputs};
use crate::config::Config;
use crate::setup::wheels;

pub(in crate::bench) const NGINX: &str = "nginx";
pub(in crate::bench) const HAPROXY: &str = "haproxy";
pub(in crate::bench) const ENVOY: &str = "envoy";
pub(in crate::bench) const RINGWALL: &str = "ringwall";

/// What a subject does with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Case {
    /// Not measured: what the proxies forward to.
    BackEnd,
    /// Forwarding alone.
    Plain,
    /// RS256 token, policy, limit and access log.
    Full,
    /// Forwarding alone, over TLS 1.3 with keep-alive.
    Tls,
    /// Forwarding through a plugin.
    Filtered,
    /// The same, in a process that has a hostile plugin on another route.
    BesideHostile,
}

impl Case {
    pub(in crate::bench) fn name(self) -> &'static str {
        match self {
            Self::BackEnd => "back end",
            Self::Plain => "plain",
            Self::Full => "JWT + policy + limit + log",
            Self::Tls => "TLS keep-alive",
            Self::Filtered => "a plugin",
            Self::BesideHostile => "beside a hostile plugin",
        }
    }
}

/// One process in one configuration.
pub(in crate::bench) struct Subject {
    pub(in crate::bench) name: &'static str,
    pub(in crate::bench) case: Case,
    pub(in crate::bench) program: PathBuf,
    pub(in crate::bench) arguments: Vec<String>,
    pub(in crate::bench) port: u16,
    pub(in crate::bench) url: String,
    pub(in crate::bench) headers: Vec<String>,
    pub(in crate::bench) log: PathBuf,
    /// Its configuration.
    pub(in crate::bench) file: PathBuf,
    /// Where Ringwall shows its metrics.
    pub(in crate::bench) admin: u16,
}

/// Plugins under measurement.
#[derive(Clone)]
pub(in crate::bench) struct Modules {
    pub(in crate::bench) good: PathBuf,
    pub(in crate::bench) hostile: PathBuf,
}

/// Back ends and subjects, with their configuration files written.
pub(in crate::bench) fn all(
    config: &Config,
    folder: &Path,
    material: &Material,
) -> Result<(Vec<Subject>, Vec<Subject>)> {
    let kit = Kit::new(config, folder, material, None)?;
    let back_ends = vec![kit.back_end()?];
    let subjects = vec![
        kit.nginx(Case::Plain)?,
        kit.haproxy(Case::Plain)?,
        kit.envoy(Case::Plain)?,
        kit.ringwall(Case::Plain)?,
        kit.envoy(Case::Full)?,
        kit.ringwall(Case::Full)?,
        kit.nginx(Case::Tls)?,
        kit.haproxy(Case::Tls)?,
        kit.envoy(Case::Tls)?,
        kit.ringwall(Case::Tls)?,
    ];
    Ok((back_ends, subjects))
}

/// The same for what plugins cost.
pub(in crate::bench) fn with_plugins(
    config: &Config,
    folder: &Path,
    material: &Material,
    modules: Modules,
) -> Result<(Vec<Subject>, Vec<Subject>)> {
    let kit = Kit::new(config, folder, material, Some(modules))?;
    let back_ends = vec![kit.back_end()?];
    let subjects = vec![
        kit.envoy(Case::Plain)?,
        kit.envoy(Case::Filtered)?,
        kit.ringwall(Case::Plain)?,
        kit.ringwall(Case::Filtered)?,
        kit.ringwall(Case::BesideHostile)?,
    ];
    Ok((back_ends, subjects))
}

fn tool(config: &Config, name: &str) -> Result<PathBuf> {
    config
        .tool(name)
        .with_context(|| format!("{name} is missing: apt-get install -y {name}"))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("finding a free port")?;
    Ok(listener.local_addr().context("finding a free port")?.port())
}

struct Kit<'run> {
    folder: &'run Path,
    material: &'run Material,
    nginx: PathBuf,
    haproxy: PathBuf,
    envoy: PathBuf,
    ringwall: PathBuf,
    back_end: u16,
    issuer: u16,
    modules: Option<Modules>,
}

impl<'run> Kit<'run> {
    fn new(
        config: &Config,
        folder: &'run Path,
        material: &'run Material,
        modules: Option<Modules>,
    ) -> Result<Self> {
        Ok(Self {
            folder,
            material,
            nginx: tool(config, "nginx")?,
            haproxy: tool(config, "haproxy")?,
            envoy: wheels::ENVOY.ensure(config)?,
            ringwall: outputs(config, Profile::Dist).join("ringwall-gateway"),
            back_end: free_port()?,
            issuer: free_port()?,
            modules,
        })
    }

    fn subject(
        &self,
        name: &'static str,
        case: Case,
        program: &Path,
        arguments: Vec<String>,
        port: u16,
    ) -> Subject {
        let scheme = if case == Case::Tls { "https" } else { "http" };
        let bearer = format!("Authorization: Bearer {}", self.material.token);
        Subject {
            name,
            case,
            program: program.to_owned(),
            arguments,
            port,
            url: format!("{scheme}://localhost:{port}/v1/orders"),
            headers: if case == Case::Full {
                vec![bearer]
            } else {
                Vec::new()
            },
            log: self.folder.join(format!("{name}-{port}.log")),
            file: PathBuf::new(),
            admin: 0,
        }
    }

    fn write(&self, name: &str, port: u16, ending: &str, text: &str) -> Result<String> {
        let path = self.folder.join(format!("{name}-{port}.{ending}"));
        fs::write(&path, text).context("writing a configuration")?;
        Ok(path.display().to_string())
    }

    fn nginx_frame(&self, port: u16, http: &str) -> String {
        let folder = self.folder.display();
        format!(
            "daemon off;\nworker_processes 1;\nuser root;\npid {folder}/nginx-{port}.pid;\nerror_log {folder}/nginx-{port}.error warn;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  keepalive_timeout 600s;\n  tcp_nodelay on;\n  server_tokens off;\n\
             client_body_temp_path {folder}/nginx-{port}-body;\n  proxy_temp_path {folder}/nginx-{port}-proxy;\n\
             fastcgi_temp_path {folder}/nginx-{port}-fastcgi;\n  uwsgi_temp_path {folder}/nginx-{port}-uwsgi;\n\
             scgi_temp_path {folder}/nginx-{port}-scgi;\n{http}\n}}\n"
        )
    }

    /// Answers with 32 bytes on one port, and serves the issuer's key set over TLS on another.
    fn back_end(&self) -> Result<Subject> {
        let folder = self.folder.display();
        let http = format!(
            "  server {{ listen 127.0.0.1:{}; location / {{ default_type text/plain; return 200 'thirty-two bytes of small answer'; }} }}\n\
             server {{ listen 127.0.0.1:{} ssl; ssl_protocols TLSv1.3; ssl_certificate {folder}/authz-server.pem; ssl_certificate_key {folder}/authz-server.key;\n\
             location = /jwks {{ default_type application/json; alias {folder}/jwks.json; }} }}",
            self.back_end, self.issuer,
        );
        let file = self.write(
            "back-end",
            self.back_end,
            "conf",
            &self.nginx_frame(self.back_end, &http),
        )?;
        let arguments = vec!["-c".to_owned(), file];
        Ok(self.subject(
            "back end",
            Case::BackEnd,
            &self.nginx,
            arguments,
            self.back_end,
        ))
    }

    fn nginx(&self, case: Case) -> Result<Subject> {
        let port = free_port()?;
        let folder = self.folder.display();
        let tls = format!(
            "ssl_protocols TLSv1.3; ssl_certificate {folder}/edge.pem; ssl_certificate_key {folder}/edge.key;"
        );
        let (listen, tls) = if case == Case::Tls {
            (" ssl", tls.as_str())
        } else {
            ("", "")
        };
        let http = format!(
            "  upstream back_end {{ server 127.0.0.1:{}; keepalive 64; keepalive_requests 1000000000; keepalive_timeout 600s; }}\n\
             server {{ listen 127.0.0.1:{port}{listen}; {tls}\n\
             location / {{ proxy_pass http://back_end; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}",
            self.back_end,
        );
        let file = self.write(NGINX, port, "conf", &self.nginx_frame(port, &http))?;
        Ok(self.subject(NGINX, case, &self.nginx, vec!["-c".to_owned(), file], port))
    }

    fn haproxy(&self, case: Case) -> Result<Subject> {
        let port = free_port()?;
        let bind = if case == Case::Tls {
            // HAProxy wants certificate and key in one file.
            let both =
                ["edge.pem", "edge.key"].map(|name| fs::read_to_string(self.folder.join(name)));
            let [chain, key] = both;
            let pair = format!(
                "{}{}",
                chain.context("reading the certificate")?,
                key.context("reading the key")?
            );
            let pair = self.write("haproxy-pair", port, "pem", &pair)?;
            format!("bind 127.0.0.1:{port} ssl crt {pair} ssl-min-ver TLSv1.3")
        } else {
            format!("bind 127.0.0.1:{port}")
        };
        let text = format!(
            "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n  \
             http-reuse always\nfrontend front\n  {bind}\n  default_backend back\nbackend back\n  server one 127.0.0.1:{}\n",
            self.back_end,
        );
        let file = self.write(HAPROXY, port, "cfg", &text)?;
        Ok(self.subject(
            HAPROXY,
            case,
            &self.haproxy,
            vec!["-db".to_owned(), "-f".to_owned(), file],
            port,
        ))
    }

    fn envoy(&self, case: Case) -> Result<Subject> {
        let port = free_port()?;
        let folder = self.folder.display();
        let router = r#"{"name":"envoy.filters.http.router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}"#;
        let (filters, log) = if case == Case::Full {
            (
                format!("{},{},{router}", self.envoy_jwt(), ENVOY_LIMIT),
                format!(
                    r#""access_log":[{{"name":"envoy.access_loggers.file","typed_config":{{"@type":"type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog","path":"{folder}/envoy-{port}.access","log_format":{{"json_format":{{"method":"%REQ(:METHOD)%","path":"%REQ(:PATH)%","status":"%RESPONSE_CODE%","us":"%DURATION%","peer":"%DOWNSTREAM_REMOTE_ADDRESS%"}}}}}}}}],"#
                ),
            )
        } else if case == Case::Filtered {
            (format!("{},{router}", self.envoy_plugin()?), String::new())
        } else {
            (router.to_owned(), String::new())
        };
        let transport = if case == Case::Tls {
            format!(
                r#","transport_socket":{{"name":"envoy.transport_sockets.tls","typed_config":{{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext","common_tls_context":{{"tls_params":{{"tls_minimum_protocol_version":"TLSv1_3"}},"tls_certificates":[{{"certificate_chain":{{"filename":"{folder}/edge.pem"}},"private_key":{{"filename":"{folder}/edge.key"}}}}]}}}}}}"#
            )
        } else {
            String::new()
        };
        let text = format!(
            r#"{{"static_resources":{{"listeners":[{{"address":{{"socket_address":{{"address":"127.0.0.1","port_value":{port}}}}},"filter_chains":[{{"filters":[{{"name":"envoy.filters.network.http_connection_manager","typed_config":{{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"bench",{log}"generate_request_id":false,"route_config":{{"virtual_hosts":[{{"name":"all","domains":["*"],"routes":[{{"match":{{"prefix":"/"}},"route":{{"cluster":"back_end"}}}}]}}]}},"http_filters":[{filters}]}}}}]{transport}}}]}}],"clusters":[{{"name":"back_end","type":"STATIC","load_assignment":{{"cluster_name":"back_end","endpoints":[{{"lb_endpoints":[{{"endpoint":{{"address":{{"socket_address":{{"address":"127.0.0.1","port_value":{}}}}}}}}}]}}]}}}}]}}}}"#,
            self.back_end,
        );
        let file = self.write(ENVOY, port, "json", &text)?;
        let arguments = [
            "-c",
            &file,
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-l",
            "warn",
        ];
        Ok(self.subject(
            ENVOY,
            case,
            &self.envoy,
            arguments.map(str::to_owned).to_vec(),
            port,
        ))
    }

    fn envoy_jwt(&self) -> String {
        let jwks = self.material.jwks.replace('"', r#"\""#);
        format!(
            r#"{{"name":"envoy.filters.http.jwt_authn","typed_config":{{"@type":"type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication","providers":{{"bench":{{"issuer":"{ISSUER}","audiences":["{AUDIENCE}"],"local_jwks":{{"inline_string":"{jwks}"}},"jwt_cache_config":{{"jwt_cache_size":1000}}}}}},"rules":[{{"match":{{"prefix":"/"}},"requires":{{"provider_name":"bench"}}}}]}}}}"#
        )
    }

    fn modules(&self) -> Result<&Modules> {
        self.modules.as_ref().context("no plugins were built")
    }

    fn envoy_plugin(&self) -> Result<String> {
        let module = self.modules()?.good.display();
        Ok(format!(
            r#"{{"name":"envoy.filters.http.wasm","typed_config":{{"@type":"type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm","config":{{"name":"good","root_id":"good","failure_policy":"FAIL_CLOSED","vm_config":{{"vm_id":"good","runtime":"envoy.wasm.runtime.v8","code":{{"local":{{"filename":"{module}"}}}}}}}}}}}}"#
        ))
    }

    /// The plugins of a case: their declarations, what the route for orders names, and further routes.
    fn ringwall_plugins(&self, case: Case) -> Result<(String, &'static str, &'static str)> {
        if !matches!(case, Case::Filtered | Case::BesideHostile) {
            return Ok(Default::default());
        }
        let Modules { good, hostile } = self.modules()?;
        let mut plugins = format!(
            "plugins:\n  - {{ name: good, module: {}, capabilities: {{ read_headers: [\"*\"], write_headers: [\"*\"] }} }}\n",
            good.display()
        );
        if case == Case::Filtered {
            return Ok((plugins, ", filters: [good]", ""));
        }
        plugins += &format!(
            "  - {{ name: hostile, module: {}, capabilities: {{ read_headers: [\"*\"], write_headers: [\"*\"], clusters: [back-end] }} }}\n",
            hostile.display()
        );
        let route = "      - { id: hostile, match: { prefix: /v1/hostile, methods: [GET] }, auth: none, action: open, policy: everybody, \
                     cluster: back-end, filters: [hostile] }\n";
        Ok((plugins, ", filters: [good]", route))
    }

    fn ringwall(&self, case: Case) -> Result<Subject> {
        let port = free_port()?;
        let (listen, admin) = (free_port()?, free_port()?);
        let folder = self.material.folder.display();
        let listener = if case == Case::Tls {
            format!(
                "{{ addresses: [\"127.0.0.1:{port}\"], tls: {{ certificates: [{{ hosts: [localhost], chain: {folder}/edge.pem, key: {folder}/edge.key }}] }} }}"
            )
        } else {
            format!("{{ addresses: [\"127.0.0.1:{port}\"], plaintext: true }}")
        };
        let (log, route) = if case == Case::Full {
            (
                format!("{{ file: {folder}/ringwall-{port}.access }}"),
                format!(
                    "auth: bearer, audience: \"{AUDIENCE}\", scopes: [\"orders:read\"], action: list, policy: customers, limits: [{{ per: user, rate: 1000000000 }}, {{ per: client, rate: 1000000000 }}]"
                ),
            )
        } else {
            (
                "{ disabled: true }".to_owned(),
                "auth: none, action: open, policy: everybody".to_owned(),
            )
        };
        let (plugins, filters, routes) = self.ringwall_plugins(case)?;
        let text = format!(
            "service:\n  name: gateway\n  trust_domain: ringwall.local\n  profile: demo\n  listen: 127.0.0.1:{listen}\n  admin: 127.0.0.1:{admin}\n  \
             identity: {folder}/identity\n  upstreams: {{ authz-server: {{ address: \"127.0.0.1:{}\", identity: authz-server }} }}\n  \
             secrets: {{ provider: file, directory: {folder}/secrets }}\n  logs: {{ format: json, level: warn }}\n\
             workers: 1\nlisteners:\n  - {listener}\naccess_log: {log}\n\
             tokens: {{ issuer: \"{ISSUER}\", upstream: authz-server }}\n\
             actions: {{ list: read, open: read }}\npolicies:\n  everybody: |\n    @id(\"everybody\") permit (principal, action == Action::\"open\", resource);\n  \
             customers: |\n    @id(\"customers\") permit (principal is User, action, resource) when {{ principal.roles.contains(\"customer\") }};\n\
             clusters: {{ back-end: {{ plain: \"127.0.0.1:{}\" }} }}\n{plugins}\
             hosts:\n  - host: localhost\n    routes:\n      - {{ id: orders, match: {{ prefix: /v1/orders, methods: [GET] }}, {route}, cluster: back-end{filters} }}\n{routes}",
            self.issuer, self.back_end,
        );
        let file = self.write(RINGWALL, port, "yaml", &text)?;
        let arguments = vec!["--config".to_owned(), file.clone()];
        let subject = self.subject(RINGWALL, case, &self.ringwall, arguments, port);
        Ok(Subject {
            file: file.into(),
            admin,
            ..subject
        })
    }
}

const ENVOY_LIMIT: &str = r#"{"name":"envoy.filters.http.local_ratelimit","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit","stat_prefix":"limit","token_bucket":{"max_tokens":1000000000,"tokens_per_fill":1000000000,"fill_interval":"1s"},"filter_enabled":{"default_value":{"numerator":100,"denominator":"HUNDRED"}},"filter_enforced":{"default_value":{"numerator":100,"denominator":"HUNDRED"}}}}"#;

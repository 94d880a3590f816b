//! The list of what is proven end to end, by area. A name starts with the requirement's row or with
//! `attack_`, which SECURITY.md refers to. Both stacks play the same list; where a scenario is of one
//! stack only, the reason stands beside it.

mod away;
mod check;
mod commands;
mod credentials;
mod dashboards;
mod edge;
mod faults;
mod floods;
mod hardening;
mod isolation;
mod kernel;
mod layers;
mod life;
mod loopback;
mod mesh;
mod mesh_faults;
mod mesh_policy;
mod oauth;
mod orders;
mod partition;
mod plugin_authors;
mod plugins;
mod revocation;
mod rotation;
mod sessions;
mod shield;
mod web;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Result;
use e2e::stack::{Kind, StackInfo};

type Play = Box<dyn Fn(Arc<StackInfo>) -> Pin<Box<dyn Future<Output = Result<()>>>> + Send + Sync>;

/// One story with the running platform.
pub(crate) struct Scenario {
    pub name: &'static str,
    pub company: Company,
    /// The components it speaks to; in containers what these depend on is started too.
    pub needs: &'static [&'static str],
    pub stacks: Stacks,
    pub play: Play,
}

/// Whether other scenarios may run at the same time.
pub(crate) enum Company {
    Others,
    /// It stops, kills or floods a component, and leaves the platform as it was.
    Alone,
    /// It leaves the platform unclean: a fresh one is started for it.
    OwnStack,
    /// It is about what protects where the kernel takes no part: a platform of that kind is started for it.
    Userspace,
    /// It is about the edge shield: a platform with a network outside, and the shield there, is started for it.
    Shielded,
}

/// Where a scenario can be played.
#[derive(Clone, Copy)]
pub(crate) enum Stacks {
    Both,
    Native,
    Containers,
}

impl Stacks {
    pub(crate) fn include(self, kind: Kind) -> bool {
        match self {
            Self::Both => true,
            Self::Native => kind == Kind::Native,
            Self::Containers => kind == Kind::Containers,
        }
    }
}

/// Pages, sign-in and tokens.
const SIGN_IN: &[&str] = &["authz-server", "gateway", "spa-proxy"];
/// The same, and services behind the API that can be read.
const CATALOGUE: &[&str] = &[
    "authz-server",
    "egress",
    "gateway",
    "inventory",
    "notifications",
    "orders",
    "payments",
    "postgres",
    "spa-proxy",
    "tokenizer",
];
/// Everything that an order meets.
const SHOP: &[&str] = CATALOGUE;
/// The engines of the overlay `scale-out` too.
const EVERYTHING: &[&str] = &[
    "authz-server",
    "egress",
    "gateway",
    "inventory",
    "nats",
    "notifications",
    "orders",
    "payments",
    "postgres",
    "spa-proxy",
    "tokenizer",
    "valkey",
];

/// The shop and what watches it: Jaeger and Grafana need a registry, Prometheus is in Debian too.
const WATCHED_SHOP: &[&str] = &[
    "authz-server",
    "egress",
    "gateway",
    "inventory",
    "notifications",
    "orders",
    "payments",
    "postgres",
    "prometheus",
    "spa-proxy",
    "tokenizer",
];

macro_rules! scenarios {
    ($list:ident, $company:ident, $stacks:ident, $needs:ident, $module:ident: $($name:ident),+ $(,)?) => {
        $($list.push(Scenario {
            name: stringify!($name),
            company: Company::$company,
            needs: $needs,
            stacks: Stacks::$stacks,
            play: Box::new(|stack| Box::pin($module::$name(stack))),
        });)+
    };
}

pub(crate) fn all() -> Vec<Scenario> {
    let mut list = Vec::new();
    main_job(&mut list);
    sign_in(&mut list);
    between_components(&mut list);
    in_the_mesh(&mut list);
    when_something_is_away(&mut list);
    in_containers(&mut list);
    list
}

fn main_job(list: &mut Vec<Scenario>) {
    scenarios!(list, Others, Both, SHOP, orders:
        r61_an_order_is_placed_and_confirmed,
        r61_status_arrives_by_server_sent_event,
        r36_the_trace_of_an_order_has_the_hops_of_all,
    );
    scenarios!(list, Others, Both, SHOP, web:
        attack_csrf_is_refused,
        attack_session_fixation_and_duplicate_cookies,
        attack_the_proxy_is_no_open_proxy,
        r17_sign_in_takes_the_steps_of_the_code_flow,
        r40_bypassing_the_page_still_gets_400,
        r43_every_page_carries_the_security_headers,
        r47_the_bundle_holds_no_secret,
    );
    // Chromium breaks off every load when a network interface comes or goes (ERR_NETWORK_CHANGED), as
    // one does whenever another scenario starts or stops a container.
    scenarios!(list, Others, Native, SHOP, web: r19_the_browser_orders_and_never_sees_a_token);
    scenarios!(list, Others, Both, SIGN_IN, edge:
        attack_smuggling_is_refused_and_the_connection_closed,
        r26_host_must_match_the_server_name,
        r26_unknown_sni_is_closed,
        r43_plaintext_is_refused_on_the_public_port,
        r56_every_declared_api_route_refuses_the_anonymous,
        r56_undeclared_routes_and_methods_are_refused,
    );
    scenarios!(list, Others, Both, SHOP, edge:
        r14_a_forged_context_does_not_change_whose_history_it_is,
        r14_forged_identity_headers_never_arrive,
        r56_a_user_without_the_role_may_not_order,
    );
    scenarios!(list, Others, Both, SHOP, plugins:
        attack_injection_ends_at_the_firewall_plugin,
        attack_injection_in_a_body_ends_at_the_firewall_plugin,
    );
    // They write into the state directory, or start a composition of their own with modules that no image has.
    scenarios!(list, Alone, Native, SIGN_IN, plugins:
        r91_a_hostile_plugin_fails_closed_and_its_neighbours_are_served,
        r92_a_module_of_another_digest_or_signature_is_refused_and_the_former_serves,
    );
    scenarios!(list, Alone, Native, SHOP, plugins:
        r90_a_plugin_stands_in_the_proxies_of_a_caller_and_of_its_callee,
    );
    scenarios!(list, Alone, Native, SIGN_IN, plugin_authors:
        r92_a_plugin_by_the_guide_is_served_and_swapped_without_a_lost_request,
    );
    // Every client of the published port comes from one address, the bridge's: a limit that is
    // counted per address would be reached by the other scenarios, and by theirs.
    scenarios!(list, Others, Native, SHOP, edge: r01_the_limit_answers_429_with_retry_after);
    scenarios!(list, Others, Both, SIGN_IN, floods: attack_header_flood_is_refused);
    // For the same reason: two hundred connections of one address are over the limit.
    scenarios!(list, Alone, Native, SIGN_IN, floods: attack_slow_loris_does_not_hinder_others);
}

fn sign_in(list: &mut Vec<Scenario>) {
    scenarios!(list, Others, Both, CATALOGUE, oauth:
        r06_client_credentials_by_basic_and_post,
        r06_mtls_client_authentication_stops_at_the_ingress,
        r06_wrong_audience_denied,
        r07_a_code_works_once_and_its_replay_revokes_the_family,
        r07_parallel_redemption_of_a_code_has_one_winner,
        r07_pkce_cannot_be_left_out_or_downgraded,
        r09_parallel_refreshes_get_the_same_successor,
        r09_refresh_rotates_and_reuse_revokes_the_family,
        r12_forged_and_foreign_tokens_are_denied,
        r18_the_redirect_must_match_exactly,
    );
    scenarios!(list, Others, Both, CATALOGUE, sessions:
        r11_a_revoked_reference_token_is_denied_within_a_second,
        r11_revoking_a_refresh_token_ends_its_access_tokens,
        r12_after_sign_out_a_jwt_is_inactive,
        r19_a_session_ended_at_the_server_is_dead_within_a_second,
        r44_discovery_names_what_the_server_does,
        r44_sign_out_ends_the_session_at_both_ends,
        r44_userinfo_and_id_token_agree,
    );
    // They lock addresses out, and all clients of the containers have the same one.
    scenarios!(list, Others, Native, SIGN_IN, sessions:
        attack_enumeration_of_users_finds_nothing,
        attack_password_guessing_is_locked_out,
    );
}

fn between_components(list: &mut Vec<Scenario>) {
    scenarios!(list, Others, Both, SHOP, mesh:
        r15_a_direct_dial_without_identity_is_refused,
        r50_undeclared_edges_are_refused_in_the_handshake,
        r71_a_foreign_trust_domain_is_refused,
        r71_an_expired_identity_is_refused,
        r71_the_right_name_from_another_authority_is_refused,
    );
    // It looks at the listeners of the machine; in containers `r59_reachable_is_what_is_declared`.
    scenarios!(list, Others, Native, SHOP, mesh: r59_only_the_gateway_is_public);
    scenarios!(list, Others, Both, SHOP, credentials:
        r12_a_token_for_payments_is_refused_by_the_api,
        r20_a_stolen_api_key_fails_from_another_workload,
        r20_an_api_key_is_needed_and_must_be_right,
        r21_a_source_token_is_bound,
        r21_parallel_redemption_has_one_winner,
        r22_a_changed_amount_is_refused,
        r22_only_all_three_credentials_pass,
        r22_the_users_own_token_is_refused_by_payments,
        r23_postgres_needs_certificate_and_password,
    );
    // They write into the state directory, or start a composition of their own.
    scenarios!(list, Alone, Native, SHOP, rotation:
        r20_key_rotation_under_load_has_no_error,
        r24_certificates_rotate_under_load_without_an_error,
    );
    scenarios!(list, Alone, Containers, SHOP, rotation:
        r24_certificates_rotate_in_containers_without_an_error,
    );
}

fn in_the_mesh(list: &mut Vec<Scenario>) {
    // In containers a component and its proxy have a loopback of their own, which no test can reach.
    scenarios!(list, Others, Native, SHOP, loopback: r25_a_forged_caller_is_stripped);
    // Where the kernel takes part, nobody gets as far as to show a secret.
    scenarios!(list, Userspace, Native, SHOP, loopback:
        r25_loopback_without_the_secret_is_refused,
        r25_the_secret_is_what_loopback_believes,
    );
    // It speaks to a proxy on its loopback.
    scenarios!(list, Userspace, Native, SHOP, loopback: r31_an_edge_to_the_ingress_ends_within_a_second);
    // A container's interface is no place for a shield yet.
    scenarios!(list, Shielded, Native, SIGN_IN, shield:
        attack_abuse_ends_at_the_interface_until_it_is_forgiven,
    );
    scenarios!(list, Others, Both, SHOP, kernel:
        attack_a_component_cannot_leave_its_group,
        attack_nobody_but_its_proxy_reaches_a_component,
        attack_what_has_no_edge_is_refused_by_the_kernel,
        r25_names_are_what_a_component_may_call,
        r25_the_kernel_leads_a_component_to_its_proxy,
    );
    scenarios!(list, Alone, Containers, SHOP, kernel: attack_no_way_out_of_a_container_carries_cleartext);
    scenarios!(list, Alone, Both, SHOP, kernel:
        attack_a_killed_agent_opens_nothing,
        attack_a_killed_proxy_opens_nothing,
        r31_an_edge_is_out_of_the_kernel_within_a_second,
    );
    // They change what others rely on, and put it back.
    scenarios!(list, Alone, Both, SHOP, mesh_policy:
        r31_a_bad_policy_is_refused_and_the_last_good_one_serves,
        r31_a_policy_is_in_force_within_a_second_and_rolled_back,
        r31_policies_are_changed_by_the_operator_alone,
        r51_unused_grants_are_reported,
    );
    scenarios!(list, Alone, Both, SHOP, commands:
        r31_the_command_applies_explains_and_rolls_back,
        r31_the_command_refuses_a_bad_policy_with_place_and_reason,
    );
    scenarios!(list, Others, Both, SHOP, commands:
        r50_the_command_observe_shows_what_was_denied,
        r69_the_command_tap_shows_heads_without_secrets,
    );
    scenarios!(list, Alone, Both, SHOP, check:
        r61_the_command_check_is_content_with_a_healthy_platform,
        r61_the_command_check_names_what_is_broken,
    );
    // It writes into the state directory, which in containers no test can.
    scenarios!(list, Alone, Native, SHOP, check:
        r33_the_command_check_tells_of_a_certificate_that_ended_or_is_missing,
    );
    scenarios!(list, Alone, Both, SHOP, revocation:
        r34_revoking_a_callee_ends_what_the_gateway_has_open_to_it,
        r34_revoking_a_workload_ends_its_streams_within_a_second,
    );
    // Their processes are killed one by one, and a replaced one takes over sockets from the supervisor.
    scenarios!(list, Alone, Native, SHOP, mesh_faults:
        r57_without_a_control_plane_the_proxies_still_decide,
        r61_a_proxy_is_killed_under_load,
        r61_a_proxy_is_replaced_under_load_without_a_failed_request,
        r61_a_proxy_of_callees_is_killed_under_load,
        r61_the_agent_is_killed_under_load,
        r61_the_control_plane_is_killed_under_load,
        r61_the_database_is_killed_under_load,
        r61_the_egress_gateway_is_killed_under_load,
        r61_the_ingress_is_killed_under_load,
    );
}

fn when_something_is_away(list: &mut Vec<Scenario>) {
    scenarios!(list, Alone, Both, SHOP, faults:
        r19_without_introspection_nothing_is_forwarded,
        r61_a_killed_component_comes_back,
        r61_history_answers_while_inventory_is_away,
        r61_orders_degrades_when_notifications_is_down,
        r69_no_secret_in_logs_or_metrics,
    );
    // Natively the control plane is stopped where it is: its sockets are loopback's.
    scenarios!(list, Alone, Containers, SHOP, partition:
        r57_a_control_plane_that_is_cut_off_converges,
    );
    scenarios!(list, Alone, Containers, SHOP, away:
        r61_agent_is_away,
        r61_authz_server_is_away,
        r61_control_plane_is_away,
        r61_gateway_is_away,
        r61_inventory_is_away,
        r61_notifications_is_away,
        r61_orders_is_away,
        r61_orders_proxy_is_away,
        r61_payments_is_away,
        r61_postgres_is_away,
        r61_provisioner_is_away,
        r61_spa_proxy_is_away,
        r61_tokenizer_is_away,
    );
}

fn in_containers(list: &mut Vec<Scenario>) {
    scenarios!(list, Others, Containers, SHOP, isolation:
        r59_reachable_is_what_is_declared,
        r59_only_the_gateways_port_is_published,
        r59_nothing_is_reachable_from_another_network,
        r59_mesh_and_data_have_no_way_out,
    );
    scenarios!(list, Others, Containers, EVERYTHING, hardening:
        r60_every_container_is_declared_hardened,
        r60_every_process_is_confined,
        r60_secrets_are_on_tmpfs_only,
    );
    scenarios!(list, Others, Containers, EVERYTHING, layers: r60_no_image_holds_a_secret);
    scenarios!(list, Alone, Containers, SHOP, life:
        r61_restarted_in_any_order_all_come_back,
        r61_stopped_and_started_backwards_all_come_back,
    );
    scenarios!(list, OwnStack, Containers, SHOP, life: r61_down_keeps_data_and_down_v_leaves_nothing);
    // The overlay publishes its pages, which the scenarios about published ports would find.
    scenarios!(list, OwnStack, Containers, WATCHED_SHOP, dashboards:
        r37_every_dashboard_panel_returns_data,
    );
}

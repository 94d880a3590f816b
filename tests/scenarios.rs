//! The list of what is proven end to end, by area. A name starts with the requirement's row or with
//! `attack_`, which SECURITY.md refers to.

mod credentials;
mod edge;
mod faults;
mod floods;
mod mesh;
mod oauth;
mod orders;
mod rotation;
mod sessions;
mod web;

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
    scenarios!(list, Company::Others, orders:
        r61_an_order_is_placed_and_confirmed,
        r61_status_arrives_by_server_sent_event,
    );
    scenarios!(list, Company::Others, mesh:
        r15_a_direct_dial_without_identity_is_refused,
        r50_undeclared_edges_are_refused_in_the_handshake,
        r59_only_the_gateway_is_public,
        r71_a_foreign_trust_domain_is_refused,
        r71_an_expired_identity_is_refused,
        r71_the_right_name_from_another_authority_is_refused,
    );
    scenarios!(list, Company::Others, edge:
        attack_smuggling_is_refused_and_the_connection_closed,
        r01_the_limit_answers_429_with_retry_after,
        r14_a_forged_context_does_not_change_whose_history_it_is,
        r14_forged_identity_headers_never_arrive,
        r26_host_must_match_the_server_name,
        r26_unknown_sni_is_closed,
        r43_plaintext_is_refused_on_the_public_port,
        r56_a_user_without_the_role_may_not_order,
        r56_every_declared_api_route_refuses_the_anonymous,
        r56_undeclared_routes_and_methods_are_refused,
    );
    scenarios!(list, Company::Others, oauth:
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
    scenarios!(list, Company::Others, sessions:
        attack_enumeration_of_users_finds_nothing,
        attack_password_guessing_is_locked_out,
        r11_a_revoked_reference_token_is_denied_within_a_second,
        r11_revoking_a_refresh_token_ends_its_access_tokens,
        r12_after_sign_out_a_jwt_is_inactive,
        r19_a_session_ended_at_the_server_is_dead_within_a_second,
        r44_discovery_names_what_the_server_does,
        r44_sign_out_ends_the_session_at_both_ends,
        r44_userinfo_and_id_token_agree,
    );
    scenarios!(list, Company::Others, floods: attack_header_flood_is_refused);
    scenarios!(list, Company::Alone, floods: attack_slow_loris_does_not_hinder_others);
    scenarios!(list, Company::Alone, rotation:
        r20_key_rotation_under_load_has_no_error,
        r24_certificates_rotate_under_load_without_an_error,
    );
    scenarios!(list, Company::Others, credentials:
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
    scenarios!(list, Company::Others, web:
        attack_csrf_is_refused,
        attack_session_fixation_and_duplicate_cookies,
        attack_the_proxy_is_no_open_proxy,
        r17_sign_in_takes_the_steps_of_the_code_flow,
        r19_the_browser_orders_and_never_sees_a_token,
        r40_bypassing_the_page_still_gets_400,
        r43_every_page_carries_the_security_headers,
        r47_the_bundle_holds_no_secret,
    );
    scenarios!(list, Company::Alone, faults:
        r19_without_introspection_nothing_is_forwarded,
        r61_a_killed_component_comes_back,
        r61_history_answers_while_inventory_is_away,
        r61_orders_degrades_when_notifications_is_down,
        r69_no_secret_in_logs_or_metrics,
    );
    list
}

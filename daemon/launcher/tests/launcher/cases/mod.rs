//! What the launcher promises, one claim for each test.

mod gvisor;
mod images;
mod inside;
mod jobs;
mod layers;
mod life;
mod limits;
mod process;
mod root;
mod swaps;
mod waiting;
mod wire;

/// Lists the tests of the modules by their names.
macro_rules! cases {
    ($($module:ident: $($name:ident)+;)+) => { &[$($((stringify!($name), $module::$name as fn())),+),+] };
}

/// Every test, by the claim it makes.
pub(crate) const ALL: &[(&str, fn())] = cases! {
    inside:
        shipped_image_that_changes_is_measured_again
        command_runs_in_a_bare_image
        command_runs_in_a_view_of_the_host
        sandbox_has_no_right_and_sees_nothing_of_the_host
        forbidden_calls_fail_inside
        attestation_says_what_the_kernel_says
        port_that_is_not_the_proxys_cannot_be_bound
        memory_over_the_limit_is_killed_and_told
        processes_over_the_limit_are_denied_and_told
        files_over_the_limit_do_not_fit
        sandbox_past_its_deadline_is_killed_and_told
        workspace_outlives_its_sandboxes_and_has_one_owner
        read_only_mount_cannot_be_written
        sandboxes_do_not_share_ids;
    gvisor:
        gvisor_runs_a_command_on_a_kernel_of_its_own
        gvisor_attestation_says_what_the_kernel_says
        gvisor_has_no_network_and_sees_nothing_of_the_host
        gvisor_memory_over_the_limit_is_killed_and_told
        gvisor_deadline_and_kill_leave_nothing_behind
        gvisor_workspace_belongs_to_its_agent
        runsc_that_is_old_dateless_or_open_to_others_is_absent_and_says_why
        gvisor_with_too_little_memory_is_refused;
    limits:
        limit_that_somebody_changes_before_the_start_is_noticed_and_refused
        sandbox_that_is_moved_out_of_its_limits_is_refused
        start_socket_of_another_sandbox_cannot_be_reached
        start_socket_of_another_sandbox_cannot_be_reached_from_gvisor
        io_weight_is_set_and_read_back_or_refused
        swap_cannot_be_used
        throttled_time_is_told;
    root:
        least_limits_are_enough_to_run_a_command
        what_is_in_memory_belongs_to_the_root_inside
        empty_directories_of_an_image_take_no_mount
        image_with_a_name_that_is_no_text_is_refused
        mount_point_behind_a_link_is_refused;
    wire:
        connection_of_another_user_is_closed
        request_before_hello_is_refused
        garbage_is_refused_and_harms_nobody
        descriptors_sent_to_the_launcher_are_closed
        plan_over_a_ceiling_is_refused
        image_reached_through_a_symlink_is_refused
        plan_without_its_image_is_refused
        id_in_use_is_refused
        more_sandboxes_than_allowed_are_refused;
    jobs:
        a_job_does_what_was_asked_and_leaves_nothing_behind
        a_job_of_ours_is_confined_while_it_works
        a_job_has_nothing_of_the_launcher_but_its_socket
        what_the_launcher_starts_is_bound_by_its_landlock
        a_job_that_did_not_confine_itself_is_told_nothing
        a_job_that_is_in_no_cgroup_is_told_nothing
        a_job_past_its_beginning_is_killed_and_told
        a_job_that_dies_is_told_with_its_last_words
        a_job_over_its_memory_is_killed_and_told
        an_answer_that_is_none_is_refused
        a_descriptor_goes_to_a_job_and_comes_back
        more_jobs_than_allowed_are_refused_and_sandboxes_go_on
        a_workspace_does_not_wait_for_images
        jobs_end_with_the_launcher;
    images:
        a_command_runs_in_an_added_image
        a_command_runs_in_an_added_image_by_gvisor
        an_image_stays_while_a_sandbox_runs_in_it
        an_added_image_hides_no_shipped_one
        an_image_outlives_the_launcher_and_half_of_one_does_not;
    layers:
        run_writes_to_a_layer_and_the_workspace_stays_as_it_was
        layer_is_an_overlay_of_what_was_made_for_it
        disk_bomb_in_a_workspace_stays_within_its_quota
        inode_bomb_in_a_workspace_stays_within_its_quota
        gvisor_run_writes_to_a_layer_within_its_quota
        what_a_killed_run_wrote_is_gone_when_its_plan_says_so
        what_nobody_decided_on_outlives_the_launcher
        two_runs_at_once_see_what_was_there_and_one_of_them_wins
        run_that_reads_cannot_write_and_keeps_what_it_began_with
        without_overlays_each_run_has_a_copy_of_its_own
        bombs_in_a_copy_stay_within_the_quota_of_their_run
        workspace_with_more_than_a_job_may_use_is_copied
        names_and_links_of_a_run_harm_nobody_outside
        layer_cannot_be_settled_twice_or_by_guessing
        an_order_is_carried_out_by_the_owner_of_the_workspace
        order_on_a_workspace_that_nobody_owns_is_refused
        sandbox_that_fails_after_its_copy_gives_everything_back;
    life:
        killed_launcher_is_swept_up_after
        two_capabilities_are_enough_to_sweep_and_to_run
        end_of_the_lifeline_kills_everything
        nothing_is_left_behind_after_many_runs
        launcher_is_nobody_on_the_host
        ceilings_that_others_may_write_are_refused
        runtimes_are_proven_by_use_and_gvisor_too
        sandbox_outlives_the_connection_and_can_be_attached_to
        another_outside_goes_on_natively
        another_outside_goes_on_in_gvisor
        end_of_a_sandbox_is_remembered_for_who_was_away
        sandbox_that_nobody_waits_for_any_more_is_killed
        killed_launcher_with_three_sandboxes_and_one_being_made_leaves_nothing
        kill_ends_the_whole_tree_whatever_it_does
        program_that_says_no_hello_is_killed_and_refused;
    process:
        launcher_has_one_thread_whatever_it_does
        paw_create_has_the_descriptors_of_its_own_sandbox_alone
        paw_create_has_the_descriptors_of_its_own_gvisor_sandbox_alone
        orphans_of_what_the_launcher_starts_are_its_children_and_are_reaped;
    swaps:
        source_that_is_swapped_for_a_link_after_its_check_is_refused
        source_that_is_swapped_for_another_directory_after_its_check_is_refused
        source_below_a_directory_that_is_swapped_after_its_check_is_refused
        gvisor_source_that_is_swapped_after_its_check_is_refused
        image_that_is_swapped_after_its_check_is_refused
        image_that_is_swapped_after_its_check_is_refused_by_gvisor;
    waiting:
        sandbox_that_waits_too_long_is_killed
        sandbox_that_waits_is_bounded_by_the_administrator
        claim_starts_the_life_of_a_sandbox_once
        command_without_a_claim_ends_when_the_waiting_does
        sandboxes_that_wait_leave_room
        sandboxes_that_wait_end_with_their_connection
        nothing_waits_when_the_host_is_short_of_memory;
};

//! What the launcher of virtual machines promises, one claim for each test.

mod inside;
mod life;
mod protocol;

/// Lists the tests of the modules by their names.
macro_rules! cases {
    ($($module:ident: $($name:ident)+;)+) => { &[$($((stringify!($name), $module::$name as fn())),+),+] };
}

/// Every test, by the claim it makes.
pub(crate) const ALL: &[(&str, fn())] = cases! {
    inside:
        shim_runs_a_command_and_its_streams_and_code_pass
        shim_passes_binary_streams_unchanged
        shim_sandbox_sees_nothing_of_the_host_and_changes_nothing
        shim_attestation_says_what_the_kernel_says
        temporary_files_can_be_written_in_a_shim_within_their_limit
        shim_memory_over_the_limit_is_killed_and_told
        shim_processes_over_the_limit_are_denied
        shim_deadline_kills_and_is_told
        source_that_is_swapped_after_its_check_is_mounted_as_it_was_checked;
    life:
        killed_shim_ends_its_sandbox_honestly_and_leaves_nothing
        hung_shim_is_ended_by_the_deadline
        killed_kata_launcher_is_swept_up_after
        killed_attendant_ends_its_sandbox_and_leaves_nothing
        many_runs_of_a_shim_leave_nothing
        record_that_names_a_foreign_file_removes_nothing
        what_a_shims_program_leaves_when_it_clears_up_is_killed
        what_a_shims_program_does_ends_with_what_clears_up
        shim_that_is_slow_to_its_limits_is_cleared_up_in_time
        mount_left_in_a_bundle_is_not_emptied_with_it
        kata_launcher_keeps_few_capabilities_and_a_run_of_its_own
        attendant_of_a_shim_has_no_right
        kata_launcher_that_is_not_enabled_does_not_start
        connection_of_another_user_is_closed_by_the_kata_launcher;
    protocol:
        shim_that_is_not_katas_is_no_virtual_machine
        both_versions_of_the_task_service_are_spoken
        shim_that_prints_garbage_is_refused
        shim_that_listens_outside_of_the_private_run_is_refused
        shim_that_answers_garbage_is_refused
        shim_that_never_starts_is_given_up
        shim_that_is_slow_to_start_is_waited_for_while_there_is_time
        task_outside_its_cgroup_is_refused
        missing_shim_is_absent_with_its_reason
        shim_that_others_may_write_is_absent_with_its_reason;
};

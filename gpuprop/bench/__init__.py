"""Benches: gpuprop beside other libraries."""

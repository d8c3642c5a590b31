package weirtest

// SimulateInto is Simulate for a test that watches another one fail.
var SimulateInto = simulate

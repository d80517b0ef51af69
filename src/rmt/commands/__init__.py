"""The commands of `rmt`, a module each. `cli` dispatches to them."""

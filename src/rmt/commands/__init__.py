"""The commands of `rmt`, one module each; `cli` dispatches to them."""

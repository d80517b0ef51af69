"""The commands of `rmt`, one module each; `cli` only wires them."""

"""RMT in other frameworks. Import the modules you need; `rmt` itself imports none of them."""

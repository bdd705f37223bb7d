"""Attribution methods: which inputs decided an output."""

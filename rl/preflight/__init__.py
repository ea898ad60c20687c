"""What `synthpert grpo --dry-run` does: it samples from the SFT policy, says what GRPO can learn, and what it costs."""

"""When does retraining help, and when does it make things worse? Worlds that change, policies that react, real models."""

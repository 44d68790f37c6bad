"""Who speaks when. Generation and judgement are injected, so a topology runs on a fake, on verl, or on any chat API."""

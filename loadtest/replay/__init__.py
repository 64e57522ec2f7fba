"""Real orders through the service: what their shoppers, sellers and carriers did, in its order."""

"""Whether dreams show what their prompt says: questions, a probe that answers them, accuracies."""

"""Both stages on the sample in the minutes given: costs, plan, model. Imports all folders."""

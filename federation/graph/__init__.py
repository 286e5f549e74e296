"""Events TOGETHER: auth rules, state resolution, building and admission. Pure."""

console.log("the asset of hono");

// Prints, as JSON Schema, what Dwolla's package for Node says of the objects that are named: each
// argument is `module.Schema` of its models. Usage: node dwolla_types.mjs FOLDER transfer.Transfer ...
import { pathToFileURL } from "node:url";
import path from "node:path";

const [folder, ...names] = process.argv.slice(2);

function described(zod) {
  const def = zod._def;
  switch (def.typeName) {
    case "ZodEffects":
      return described(def.schema);
    case "ZodPipeline":
      return described(def.in);
    case "ZodOptional":
    case "ZodDefault":
      return described(def.innerType);
    case "ZodNullable":
      return { anyOf: [described(def.innerType), { type: "null" }] };
    case "ZodLazy":
      return described(def.getter());
    case "ZodObject": {
      const shape = def.shape();
      const required = Object.keys(shape).filter((name) => !shape[name].isOptional());
      const properties = Object.fromEntries(
        Object.entries(shape).map(([name, inner]) => [name, described(inner)]),
      );
      return { type: "object", properties, required };
    }
    case "ZodArray":
      return { type: "array", items: described(def.type) };
    case "ZodRecord":
      return { type: "object", additionalProperties: described(def.valueType) };
    case "ZodUnion":
      return { anyOf: def.options.map(described) };
    case "ZodNativeEnum":
      return { enum: Object.values(def.values) };
    case "ZodEnum":
      return { enum: def.values };
    case "ZodLiteral":
      return { enum: [def.value] };
    case "ZodString":
      return { type: "string" };
    case "ZodNumber":
      return { type: "number" };
    case "ZodBoolean":
      return { type: "boolean" };
    default:
      return {};
  }
}

const found = {};
for (const name of names) {
  const [module, schema] = name.split(".");
  const file = path.join(folder, "dist/esm/models", `${module}.js`);
  const models = await import(pathToFileURL(file));
  found[name] = described(models[`${schema}$inboundSchema`]);
}
process.stdout.write(JSON.stringify(found));

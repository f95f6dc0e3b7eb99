/** One operation of the node: its line in the drop-down list, its fields, and its work. */
import type {
	IExecuteFunctions,
	INodeExecutionData,
	INodeProperties,
	INodePropertyOptions,
} from 'n8n-workflow';

export interface Operation {
	option: INodePropertyOptions;
	fields: INodeProperties[];
	run: (context: IExecuteFunctions) => Promise<INodeExecutionData[]>;
	/** The items by output, for an operation that may have several. */
	byOutput?: (context: IExecuteFunctions, items: INodeExecutionData[]) => INodeExecutionData[][];
}

/** Version 2 moved the rarely used fields into collections. Version 1 keeps its panel for workflows that have it. */
export const VERSION_1 = { '@version': [1] };
export const VERSION_2 = { '@version': [{ _cnd: { gte: 2 } }] };

/** The properties of one resource: the list of its operations, then the fields of each. */
export function resourceProperties(
	resource: string,
	operations: Operation[],
	defaultOperation: string,
): INodeProperties[] {
	return [
		{
			displayName: 'Operation',
			name: 'operation',
			type: 'options',
			noDataExpression: true,
			displayOptions: { show: { resource: [resource] } },
			options: operations.map(({ option }) => option),
			default: defaultOperation,
		},
		...operations.flatMap(({ option, fields }) =>
			fields.map((field) => onlyFor(field, resource, String(option.value))),
		),
	];
}

/** `field`, shown for one operation only, beside the conditions of its own. */
function onlyFor(field: INodeProperties, resource: string, operation: string): INodeProperties {
	const { show, hide } = field.displayOptions ?? {};
	return {
		...field,
		displayOptions: {
			show: { resource: [resource], operation: [operation], ...show },
			...(hide === undefined ? {} : { hide }),
		},
	};
}

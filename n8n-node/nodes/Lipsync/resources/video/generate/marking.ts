/**
 * The fields of Marking: a visible label. The machine-readable marks need no field, because the owner of the server
 * switches them on or off for all videos.
 */
import type { IDataObject, INodeProperties } from 'n8n-workflow';

import { text } from '../../../items';
import { VERSION_2 } from '../../../operation';

export const markingFields: INodeProperties = {
	displayName: 'Marking',
	name: 'marking',
	type: 'collection',
	placeholder: 'Add Field',
	default: {},
	displayOptions: { show: { ...VERSION_2 } },
	description:
		'Every video says in machine-readable form that it was generated. These fields add a visible label.',
	options: [
		{
			displayName: 'Corner',
			name: 'corner',
			type: 'options',
			options: [
				{ name: 'Bottom Left', value: 'bottom-left' },
				{ name: 'Bottom Right', value: 'bottom-right' },
				{ name: 'Top Left', value: 'top-left' },
				{ name: 'Top Right', value: 'top-right' },
			],
			default: 'top-left',
			description: 'The corner of the label. It takes another one where it would cover the mouth.',
		},
		{
			displayName: 'Label',
			name: 'label',
			type: 'string',
			default: 'AI generated',
			description: 'A small text in a corner of every frame, 60 characters at most',
		},
	],
};

/** The form fields of the server for `marking`, the value of the collection. */
export function markingTexts(marking: IDataObject): Record<string, string> {
	const label = text(marking.label);
	return { label, label_corner: label === '' ? '' : text(marking.corner) };
}

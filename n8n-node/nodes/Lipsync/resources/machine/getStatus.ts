/** Machine > Get Status: state, address and price of a machine, and whether its server is ready. */
import type { IDataObject } from 'n8n-workflow';

import { eachItem } from '../../items';
import { accountOf } from '../../machines';
import type { Machine } from '../../machines/machine';
import { readReadiness } from '../../machines/ready';
import type { Operation } from '../../operation';
import { machineIdField, readMachineId } from './machineId';

export const getStatus: Operation = {
	option: {
		name: 'Get Status',
		value: 'getStatus',
		description: 'Get state, address and price of a machine',
		action: 'Get rented machine status',
	},
	fields: [machineIdField],
	run: async (context) =>
		await eachItem(context, async (i) => {
			const { provider, name } = await accountOf(context, i);
			const machine = await provider.state(readMachineId(context, i));
			const isUp = machine.state === 'running' && machine.url !== '';
			const readiness = isUp ? await readReadiness(context, machine.url) : undefined;
			const server = readiness?.detail ?? (isUp ? 'the server does not answer yet' : '');
			const json = { ...describeMachine(machine, name), ready: readiness?.ready === true, server };
			return { json, pairedItem: { item: i } };
		}),
};

export function describeMachine(machine: Machine, provider: string): IDataObject {
	return {
		machine_id: machine.id,
		provider,
		state: machine.state,
		url: machine.url,
		price_per_hour: machine.pricePerHour,
		detail: machine.detail,
		label: machine.label,
	};
}

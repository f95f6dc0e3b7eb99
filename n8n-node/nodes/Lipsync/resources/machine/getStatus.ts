/** Machine > Get Status: state, address and price of a machine, whether its server is ready, and when it stops itself. */
import type { IDataObject } from 'n8n-workflow';

import { eachItem } from '../../items';
import { accountOf } from '../../machines';
import { readCountdown } from '../../machines/idleStop';
import type { Machine } from '../../machines/machine';
import { readReadiness } from '../../machines/ready';
import type { Operation } from '../../operation';
import { machineIdField, readMachineId } from './machineId';
import { readServerToken, serverTokenField } from './serverToken';

export const getStatus: Operation = {
	option: {
		name: 'Get Status',
		value: 'getStatus',
		description: 'Get state, address and price of a machine, and when it stops itself',
		action: 'Get rented machine status',
	},
	fields: [machineIdField, serverTokenField],
	run: async (context) =>
		await eachItem(context, async (i) => {
			const { provider, name } = await accountOf(context, i);
			const machine = await provider.state(readMachineId(context, i));
			const isUp = machine.state === 'running' && machine.url !== '';
			const readiness = isUp ? await readReadiness(context, machine.url) : undefined;
			const server = readiness?.detail ?? (isUp ? 'the server does not answer yet' : '');
			const countdown =
				readiness === undefined
					? {}
					: await readCountdown(context, machine.url, readServerToken(context, i));
			const ready = readiness?.ready === true;
			const json = { ...describeMachine(machine, name), ready, server, ...countdown };
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
